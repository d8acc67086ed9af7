"""Data sets as uint8 arrays: digits, MNIST, CIFAR-10, SVHN, or any folder of images by class."""

from bnn.data.dataset import DataError, Dataset
from bnn.data.load import DATASETS, load_dataset

__all__ = ["DATASETS", "DataError", "Dataset", "load_dataset"]
