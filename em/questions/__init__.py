"""Question sets: the bundled ones in `em/assets/questions`, third-party ones, and a user's own files."""

from em.questions.rubrics import own
from em.questions.sets import BUNDLED, load_set, load_sets

__all__ = ["BUNDLED", "load_set", "load_sets", "own"]
