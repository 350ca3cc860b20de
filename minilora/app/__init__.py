"""The page in the browser: `minilora app`. Start at `page.py`; what its buttons do is in the files beside it.

A page has three tabs. *Write* lets voices speak side by side with the base (`writing.py`, drawn by `colours.py` and
`charts.py`), *Teach a new voice* trains one (`learning.py`), *Look inside* counts and merges (`looking.py`). Only
`page.py` and `server.py` need Gradio, and import it inside their functions.
"""
