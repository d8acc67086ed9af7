"""Training by a recipe: one loop in plain PyTorch, from the first step to a packed model and its figures.

    result = train(TrainConfig.from_recipe("mnist"), "runs/mnist")

A run's folder holds config.toml, metrics.csv, layers.csv, tensorboard/, curves.png, checkpoint.pt, the one
before it, model.bnn and result.json. Everything but the events is written whole or not at all, by one process
at a time, and the checkpoint, written after every epoch, holds all that changes: a run that was killed and
resumed gives the same weights, metrics and result as one that was not.
"""

import json
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from bnn.binarization import latent_parameters
from bnn.config import TrainConfig
from bnn.data import DATASETS, Dataset, load_dataset
from bnn.errors import first_lines
from bnn.files import one_writer, replacing, write_atomically
from bnn.freezing import freeze
from bnn.packed.model import PackedModel
from bnn.packing.packing import pack
from bnn.runtime import Runner
from bnn.training.building import LOSSES, begin, build
from bnn.training.checkpoints import (
    RunError,
    State,
    check_free,
    claim,
    find_checkpoint,
    read_checkpoint,
    restore,
    save_checkpoint,
)
from bnn.training.diagnostics import advice
from bnn.training.distributed import World, join
from bnn.training.loop import Batches, Run, TrainingDiverged, as_tested, evaluate, recalibrates, train_epoch
from bnn.training.reports import Events, Progress, draw_curves, layers_csv, metrics_csv
from bnn.training.samples import split

__all__ = [
    "Result",
    "RunError",
    "TrainingDiverged",
    "evaluate",
    "load_trained",
    "train",
]


@dataclass(frozen=True)
class Result:
    """The outcome of a run, the test figures first; `result.json` holds the same.

    Accuracies are on the test set (0..1), read once, at the end. `trained` is the network as PyTorch has
    it: with its signs, or for stochastic training with the real-valued weights, as the paper tests it.
    `frozen` and `packed` have the signs (the float twin its floats), and if `recalibrated`, batch-norm
    statistics taken anew, where `trained` has training's: of random signs, dropout, adversarial images.
    """

    trained: float
    frozen: float
    packed: float
    trained_weights: str
    frozen_weights: str
    recalibrated: bool
    validation: float | None
    test_samples: int
    one_bit_weights: int
    float_bytes: int
    packed_bytes: int


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Trains, freezes, packs and tests a network; fills the folder `out`.

    Args:
        config: the recipe.
        out: the run's folder; made if it is not there.
        data_dir: where data sets are; see `bnn.data.load_dataset`.
        resume: go on where the run in `out` was stopped (from the start, if it had not got anywhere).
        force: start anew in a folder that holds another run.
        progress: hears how it goes.

    Raises:
        RunError: `out` holds another run, or one that does not fit.
        UserError: another process, or thread, writes to `out`.
        TrainingDiverged: NaN or infinity; the last good checkpoint is kept.
        ConfigError, DataError, OSError: as their messages say.
    """
    with join(config.device) as world, ExitStack() as stack:
        world.on_rank_0(lambda: stack.enter_context(one_writer(out)))  # before anything there is looked at
        # A function of its own: what it holds, the group of processes too, is freed before `join` ends it.
        return _train(
            config, Path(out), world, data_dir=data_dir, resume=resume, force=force, progress=progress
        )


def _train(
    config: TrainConfig,
    out: Path,
    world: World,
    *,
    data_dir: str | Path | None,
    resume: bool,
    force: bool,
    progress: Progress | None,
) -> Result:
    """The same in every process; what is written or said is rank 0's to write or say."""
    world.on_rank_0(lambda: check_free(out, config, resume, force))
    if world.size > 1:  # one downloads, for all
        world.on_rank_0(lambda: load_dataset(config.data, data_dir) is None)
    data = load_dataset(config.data, data_dir)
    training, validation, normalisation = split(data, config.validation, world.device)
    batches = Batches.of(config, len(training), world)
    state = begin(config, data.train_inputs.shape[1:], len(data.classes), batches.steps, world.device)
    batches.check(state.model, world)
    world.on_rank_0(lambda: claim(out, config, force))  # only now: what was wrong has shown itself
    if resume and (content := world.on_rank_0(lambda: find_checkpoint(out, config))):
        restore(content, state, out)
    leads = world.rank == 0
    heard = progress if leads and progress is not None else Progress()
    run = Run(config, state, training, validation, world, heard)
    with Events(out / "tensorboard", len(state.rows) + 1) if leads else nullcontext() as events:
        while len(state.rows) < config.epochs:
            row, layers = train_epoch(run)
            state.rows.append(row)
            state.layers.append(layers)
            if events is not None:
                events.write(row, layers)
                save_checkpoint(out, config, state)
                _write_metrics(out, state)
                run.progress.epoch(row)
                for line in advice(layers, ending=row.epoch == config.epochs):
                    run.progress.advice(line)
    return world.on_rank_0(lambda: _finish(run, out, data, normalisation))


def _write_metrics(out: Path, state: State) -> None:
    write_atomically(out / "metrics.csv", metrics_csv(state.rows).encode())
    if any(state.layers):
        write_atomically(out / "layers.csv", layers_csv(state.layers).encode())


def load_trained(folder: str | Path) -> nn.Module:
    """The network of a run's folder as it was trained, latent weights and all, in eval mode.

    Its batch norms have training's statistics. After random signs, dropout or adversarial images `model.bnn`
    has others (`bnn.recalibrate`).

    Raises:
        RunError: there is no checkpoint, or it is damaged: no older one is taken instead.
        OSError: it cannot be read.
    """
    config, content = read_checkpoint(Path(folder))
    try:
        model = build(config, tuple(content["shape"]), content["classes"])
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint in {folder} does not fit its own config: {first_lines(error)}"
        ) from error
    return model.eval()


# --- the end ----------------------------------------------------------------------------------------------


def _finish(run: Run, out: Path, data: Dataset, normalisation: tuple[list[float], list[float]]) -> Result:
    """Freezes, packs and tests: the only place that reads the test set."""
    config, model, training = run.config, run.state.model, run.training
    _write_metrics(out, run.state)  # for a run that was killed between its last checkpoint and its metrics
    with replacing(out / "curves.png") as file:
        title = f"{config.model}, {config.weights} weights, {data.name}"
        draw_curves(run.state.rows, run.state.layers, title, file)
    stochastic = config.weights == "stochastic"
    shipped = "real" if config.weights == "float" else "sign"
    frozen = freeze(as_tested(config, model, training))
    example, _ = training.batch(slice(0, 2))
    mean, std = normalisation
    # A folder's name would not find it again, and its path is nobody else's business.
    known_data = {"data": config.data} if config.data in DATASETS else {}
    about = {"model": config.model, "trained": config.weights, "weights": shipped} | known_data
    packed = pack(frozen, example, mean=mean, std=std, labels=data.classes, about=about)
    write_atomically(out / "model.bnn", packed.to_bytes())

    test = training.alike(data.test_inputs, data.test_targets)
    loss = LOSSES[config.loss]
    own = PackedModel.load(out / "model.bnn", max_memory=None)  # no stranger's, so of any size
    runner = Runner(own, max_memory=None, max_work=None)
    _, trained = evaluate(freeze(model, "real") if stochastic else model, test.batches(), loss)
    _, accuracy = evaluate(frozen, test.batches(), loss)
    result = Result(
        trained=trained,
        frozen=accuracy,
        packed=float(np.mean(runner.predict(data.test_inputs) == data.test_targets)),
        trained_weights="real" if stochastic else shipped,
        frozen_weights=shipped,
        recalibrated=recalibrates(config, model),
        validation=run.state.rows[-1].acc_val,
        test_samples=len(test),
        one_bit_weights=sum(p.numel() for p in latent_parameters(model)),
        float_bytes=sum(t.numel() * t.element_size() for t in frozen.state_dict().values()),
        packed_bytes=(out / "model.bnn").stat().st_size,
    )
    write_atomically(out / "result.json", (json.dumps(asdict(result), indent=2) + "\n").encode())
    return result
