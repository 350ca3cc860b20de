"""The web app, `minilora app`. Start with `page.py`; the handlers of its buttons are in `actions.py`.

The page has three tabs. *Generate* shows texts from the base and from a mixture of voices side by side (`writing.py`,
rendered by `colors.py` and `charts.py`). *Train a new voice* trains a voice (`learning.py`). *Look inside* counts the
parameters of a voice and checks merging (`looking.py`). Only `page.py` and `server.py` need Gradio, and they import it
inside their functions.
"""
