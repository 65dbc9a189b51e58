"""Student families: everything that differs between one omni model and another, one module each.

`family.py` is the list of what a family says, `registry.py` finds the one of a model by its configuration. No other
package names a family; docs/students.md says how to add one.
"""
