"""For type checkers, which cannot see that `rowtide.evaluate` is `engine.evaluate`."""

from engine.evaluate import CALL_ROWS as CALL_ROWS
from engine.evaluate import Ranker as Ranker
from engine.evaluate import Report as Report
from engine.evaluate import prequential as prequential
from engine.evaluate import ranks as ranks
