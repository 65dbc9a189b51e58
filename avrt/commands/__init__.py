"""The commands of ``python -m avrt`` that are not Lightning's own, one module each."""
