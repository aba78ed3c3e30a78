"""The HTTP interface. Handlers validate, call, answer; what goes wrong is an error of ``service.errors``."""
