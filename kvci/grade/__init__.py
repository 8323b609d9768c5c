"""Grade a patch with swebench's own test specs, log parsers and grading.

`patch.py` imports swebench, and this import takes seconds. So only code that grades imports
`patch.py`.
"""
