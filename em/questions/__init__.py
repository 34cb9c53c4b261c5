"""Question sets: the bundled ones in `em/assets/questions`, third-party ones, and a user's own files."""

from em.questions.rubrics import load_builtin_rubrics
from em.questions.sets import BUNDLED, load_set, load_sets

__all__ = ["BUNDLED", "load_builtin_rubrics", "load_set", "load_sets"]
