"""Which weights to test a stochastic network with: signs, one random sample, or the real-valued ones?

    bnn train mnist --weights stochastic --out runs/stochastic
    python examples/test_time_weights.py runs/stochastic [--data-dir DIR]

Prints the accuracy on the validation set of each, with the batch-norm statistics that training left and
with those that `recalibrate` estimates under the very weights that are tested.
"""

import argparse
from pathlib import Path

import torch

from bnn import freeze, load, load_dataset, recalibrate
from bnn.config import TrainConfig
from bnn.training import load_trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--data-dir", help="holds a folder for each data set")
    options = parser.parse_args()

    config = TrainConfig.from_recipe(options.run / "config.toml")
    if not config.validation:
        parser.error(f"{options.run} was trained without a validation set")
    contract = load(options.run / "model.bnn").model.input
    data = load_dataset(config.data, options.data_dir)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (contract.mean, contract.std))
    images = (torch.from_numpy(data.train_images) / 255 - mean) / std
    labels = torch.from_numpy(data.train_labels)[-config.validation :]
    model = load_trained(options.run)

    print(f"{config.weights} training on {config.data}; {len(labels):,} validation images")
    print("weights at test time   as trained   recalibrated")
    for name, weights in (("signs", "sign"), ("one random sample", "sample"), ("real-valued", "real")):
        frozen = freeze(model, weights, seed=0)
        before = accuracy(frozen, images[-config.validation :], labels)
        recalibrate(frozen, images[: -config.validation][: config.recalibrate].split(1000))
        after = accuracy(frozen, images[-config.validation :], labels)
        print(f"{name:20s}  {100 * before:9.2f} %    {100 * after:9.2f} %")


@torch.inference_mode()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right predictions, 0..1."""
    predicted = torch.cat([model(batch).argmax(1) for batch in images.split(1000)])
    return (predicted == labels).float().mean().item()


if __name__ == "__main__":
    main()
