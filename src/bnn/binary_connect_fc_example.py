"""BinaryConnect on MNIST, one page to read aloud.

    python -m bnn.binary_connect_fc_example [--data-dir DIR]

The optimizer updates real-valued latent weights. What the network computes with are samples of ±1, drawn
anew at every step: +1 with probability hard_sigmoid(latent weight). Forward and backward use the sample;
its gradient goes to the latent weight as if the two were one, since dE[sample]/dw = 1. With weights of ±1
neither the sums nor their gradients multiply by weights; the gradient of the weights themselves still
multiplies, activations by errors. To ship the network, any one random sample is drawn and kept.
"""

import argparse
import sys
from time import perf_counter

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bnn import BinaryLinear, StochasticSign, clip_latent_weights, freeze, load_dataset, recalibrate
from bnn.data import DataError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bnn.binary_connect_fc_example")
    parser.add_argument("--data-dir", help="holds mnist/ (default: $BNN_DATA_DIR, or a cache)")
    mnist = load_dataset("mnist", parser.parse_args().data_dir)
    torch.manual_seed(0)

    # Two layers of ±1 weights. Batch norm gives their sums, up to ±784, a scale that learning can work with.
    model = nn.Sequential(
        nn.Flatten(),
        BinaryLinear(784, 256, bias=False, quantizer=StochasticSign),
        nn.BatchNorm1d(256),
        nn.ReLU(),
        BinaryLinear(256, 10, bias=False, quantizer=StochasticSign),
        nn.BatchNorm1d(10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    clip_latent_weights(optimizer, model)  # to [-1, 1], where they are probabilities

    images, labels = torch.from_numpy(mnist.train_inputs), torch.from_numpy(mnist.train_targets)
    start = perf_counter()
    for step, batch in enumerate(torch.randperm(len(images)).split(200)[:250], start=1):
        scores = model(images[batch] / 255)  # under one sample of the weights
        loss = cross_entropy(scores, labels[batch])
        optimizer.zero_grad()
        loss.backward()  # gradients of the sample ...
        optimizer.step()  # ... move the latent weights
        if step % 50 == 0:
            right = (scores.argmax(1) == labels[batch]).float().mean().item()
            print(f"step {step}: accuracy {100 * right:.1f} %, {perf_counter() - start:.2f} s of training")

    # Any random sample will do; its sums have statistics of their own, which batch norm learns anew.
    frozen = recalibrate(freeze(model, "sample", seed=0), (images[:10_000] / 255).split(1000))
    with torch.inference_mode():
        predicted = frozen(torch.from_numpy(mnist.test_inputs) / 255).argmax(1)
    accuracy = (predicted == torch.from_numpy(mnist.test_targets)).float().mean().item()
    print(f"frozen sample: {100 * accuracy:.2f} %")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"binary_connect_fc_example: {error}")
