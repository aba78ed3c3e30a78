"""The HTTP interface. Handlers validate, call, answer; failures are errors of ``service.errors``."""
