"""Question sets: ours in `em/assets/questions`, known ones of others, and any file of a user's."""

from em.questions.rubrics import own
from em.questions.sets import BUNDLED, load_set, load_sets

__all__ = ["BUNDLED", "load_set", "load_sets", "own"]
