"""Training by a recipe: from the first step to a packed model and its figures."""

from bnn.training.checkpoints import RunError as RunError
from bnn.training.loop import TrainingDiverged as TrainingDiverged
from bnn.training.loop import evaluate as evaluate
from bnn.training.reports import Progress as Progress
from bnn.training.reports import Row as Row
from bnn.training.run import Result as Result
from bnn.training.run import load_trained as load_trained
from bnn.training.run import train as train

__all__ = ["Progress", "Result", "Row", "RunError", "TrainingDiverged", "evaluate", "load_trained", "train"]
