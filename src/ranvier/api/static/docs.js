// Relative, so that it works behind a proxy that adds a prefix. No validator: it would ask a server of its own.
SwaggerUIBundle({
  url: "../api-doc/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
