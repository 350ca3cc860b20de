"""For every test: Hypothesis draws the same cases each time, and takes the time that a slow machine needs."""

from hypothesis import settings

settings.register_profile("minilora", deadline=None, derandomize=True)
settings.load_profile("minilora")
