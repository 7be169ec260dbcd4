"""A process that asks for the cores, computes on each and ends: `python -m ranvier.selfcheck.rival`."""

from __future__ import annotations

import sys


def main() -> int:
    """Exit code 0 where the cores could be taken, else 1 with the runtime's words on standard error."""
    from ranvier.targets.neuron.inspection import claim_devices

    try:
        platform, count = claim_devices()
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    if platform == "cpu":
        # JAX takes what there is when a platform's plug-in fails.
        sys.stderr.write("JAX has fallen back to this machine's processor\n")
        return 1
    sys.stdout.write(f"{count} cores of platform {platform}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
