"""One module for each `model_type`: config -> spec, our weight names -> the checkpoint's."""

from ranvier.models.families.family import Family
from ranvier.models.families.registry import family_of, refused_families, spec_of, supported_families

__all__ = ["Family", "family_of", "refused_families", "spec_of", "supported_families"]
