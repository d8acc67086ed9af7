"""The training loop, on the embedded digits."""

import copy
import csv
import json
import math
import os
import random
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from support.progress import Epochs
from torch.nn.functional import cross_entropy

from bnn.binarization import latent_parameters
from bnn.config import ConfigError, TrainConfig
from bnn.data import load_dataset
from bnn.errors import UserError
from bnn.files import one_writer
from bnn.freezing import freeze
from bnn.packed.model import PackedModel
from bnn.runtime import Runner, load
from bnn.training import run as run_module
from bnn.training.building import begin, build, lr_factor
from bnn.training.loop import Run, TrainingDiverged, as_tested, evaluate, train_epoch
from bnn.training.reports import Events, Row, metrics_csv
from bnn.training.run import RunError, load_trained, train
from bnn.training.samples import Samples, split

SMALL = {"epochs": 2, "width": 32, "batch_size": 100}


def _config(**changes):
    return TrainConfig.from_recipe("digits", **(SMALL | changes))


@pytest.fixture(autouse=True)
def curves(request, monkeypatch):
    """Leaves out drawing, half the time of a run so short, where a test does not ask for `drawn`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(run_module, "draw_curves", lambda rows, epochs, title, file: None)


@pytest.fixture
def drawn():
    """In this test curves are drawn."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(_config(), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """The folder of a finished run, which a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.usefixtures("drawn")
def test_a_run_writes_everything(tmp_path):
    """config, metrics, events, curves, checkpoint, packed model and result are there and agree."""
    result = train(_config(), tmp_path)
    rows = _metrics(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == [
        "epoch", "loss_train", "loss_val", "acc_train", "acc_val",
        "flips_per_step", "flip_ratio", "saturation", "oscillation", "dead_units", "lr", "seconds"
    ]  # fmt: skip
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert TrainConfig.from_recipe(tmp_path / "config.toml") == _config()
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["packed"] == result.packed
    data = load_dataset("digits")
    net = load(tmp_path / "model.bnn")
    assert np.mean(net.predict(data.test_inputs) == data.test_targets) == result.packed == result.frozen
    assert net.model.input.labels == data.classes
    assert not [path for path in tmp_path.rglob("*") if "tmp" in path.name]


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("weights", ["deterministic", "stochastic", "float"])
@pytest.mark.parametrize("model", ["binaryconnect_mlp", "binarynet_mlp"])
def test_it_learns(tmp_path, weights, model):
    """Every kind of weights, with real-valued and ±1 activations, learns the digits; figures agree."""
    result = train(
        _config(weights=weights, model=model, epochs=12, width=128, lr=1e-2, schedule="cosine"), tmp_path
    )
    assert result.packed > 0.75  # chance is 0.1
    assert result.packed == result.frozen
    assert result.one_bit_weights == (0 if weights == "float" else 64 * 128 + 2 * 128**2 + 1280)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("loss", ["squared_hinge", "cross_entropy"])
def test_optimizers_and_losses_lower_the_loss(tmp_path, optimizer, loss):
    """Each optimizer lowers each loss, and latent weights stay clipped."""
    rows: list[Row] = []
    lr = 0.05 if optimizer == "sgd" else 1e-3
    train(_config(optimizer=optimizer, loss=loss, lr=lr, epochs=3), tmp_path, progress=Epochs(rows.append))
    assert rows[-1].loss_train < rows[0].loss_train
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    latent = [value for name, value in state.items() if name.endswith("original")]
    assert len(latent) == 4
    assert all(value.abs().max() <= 1 for value in latent)


def test_an_adversarial_step_by_hand():
    """Half of the gradient is of the images, half of the same moved along the sign of their gradient."""
    config = _config(
        model="logistic_regression", weights="float", optimizer="sgd", lr=0.5, schedule="constant", epochs=1,
        adversarial=0.2, loss="cross_entropy", dropout_in=0.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=generator)
    mean, std = torch.zeros(1, 3, 1, 1), torch.tensor([0.2, 0.5, 1.5]).view(1, 3, 1, 1)
    samples = Samples(images, torch.arange(20) % 10, mean, std)
    state = begin(config, (3, 4, 4), 10, 1, torch.device("cpu"))
    model = state.model
    twin = copy.deepcopy(model)
    train_epoch(Run(config, state, samples))
    x, labels = samples.batch(slice(0, 20))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(twin(x), labels), x)
    moved = x.detach() + 0.2 * gradient.sign() / std
    (cross_entropy(twin(x), labels) / 2 + cross_entropy(twin(moved), labels) / 2).backward()
    for trained, parameter in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(trained, parameter.detach() - 0.5 * parameter.grad)


def test_what_is_validated_and_packed_is_what_is_tested(tmp_path):
    """Validation, the packed file and `frozen` have the new statistics, `trained` has training's."""
    config = _config(adversarial=0.5)
    rows: list[Row] = []
    result = train(config, tmp_path, progress=Epochs(rows.append))
    data, device = load_dataset("digits"), torch.device("cpu")
    training, validation, _ = split(data, config.validation, device)
    test = training.alike(data.test_inputs, data.test_targets)
    trained = load_trained(tmp_path)
    tested = as_tested(config, trained, training)
    assert rows[-1].acc_val == result.validation == evaluate(tested, validation.batches())[1]
    assert result.packed == result.frozen == evaluate(tested, test.batches())[1]
    assert result.trained == evaluate(trained, test.batches())[1]
    assert result.recalibrated
    assert result.trained < result.frozen


def test_recalibration_stays_on_its_device(monkeypatch):
    """Batches of images on another device ("meta": shapes only) are taken by an index on that device."""

    class Checked(Samples):
        def batch(self, index):
            assert index.device == self.images.device  # a GPU takes no other
            return super().batch(index)

    monkeypatch.setattr(
        "bnn.training.loop.recalibrate", lambda model, data: devices.update(x.device for x, _ in data)
    )
    devices: set[torch.device] = set()
    config = _config(weights="float")
    with torch.device("meta"):
        images, labels = torch.zeros(50, 1, 8, 8, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64)
        training = Checked(images, labels, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
        model = build(config, (1, 8, 8), 10)
    as_tested(config, model, training)
    assert devices == {images.device}


def test_bf16_trains_float32_weights(tmp_path):
    """Under autocast the matrix products are bfloat16; latent weights and result stay float32."""
    result = train(_config(precision="bf16", epochs=4, width=128), tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
    assert result.packed > 0.75


def test_same_seed_same_run_other_seed_another(tmp_path):
    """A run is a function of its config."""
    outs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(_config(seed=seed, weights="stochastic", dropout=0.1), tmp_path / name)
        outs.append((tmp_path / name / "model.bnn").read_bytes())
    assert outs[0] == outs[1]
    assert outs[0] != outs[2]


ADVERSARIAL = {"adversarial": 0.1, "precision": "bf16", "accumulate": 2, "augment": "crop-flip"}


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.2, "dropout_in": 0.1},
        ADVERSARIAL,
        {**ADVERSARIAL, "model": "binaryconnect_cnn", "width": 8, "validation": 1200},
    ],
)
def test_resumed_run_equals_uninterrupted(tmp_path, changes):
    """Stopped after an epoch and resumed, a run ends with the same weights, metrics and result."""
    config = _config(weights="stochastic", epochs=4, **changes)
    train(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(row):
        if row.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path / "parts", progress=Epochs(stop))
    train(config, tmp_path / "parts", resume=True)
    assert _outcome(tmp_path / "whole") == _outcome(tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)  # a finished run may be resumed as well
    assert _outcome(tmp_path / "whole") == _outcome(tmp_path / "parts")


def _metrics(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def _outcome(folder):
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in _metrics(folder)]
    return rows, (folder / "result.json").read_text(), (folder / "model.bnn").read_bytes()


def test_resume_where_nothing_was_written_starts(finished, tmp_path):
    """Killed before the first checkpoint, a run starts from the beginning when resumed."""
    train(_config(), tmp_path / "new", resume=True)
    assert _outcome(tmp_path / "new") == _outcome(finished)


def test_another_run_is_not_overwritten(run):
    """A folder with a run in it is refused, unless force says to start anew."""
    before = (run / "model.bnn").read_bytes()
    with pytest.raises(RunError, match="--resume goes on with it, --force starts anew"):
        train(_config(seed=1), run)
    assert (run / "model.bnn").read_bytes() == before
    train(_config(seed=1), run, force=True)
    assert (run / "model.bnn").read_bytes() != before


def test_resume_with_other_values_is_refused(run):
    """Resuming with another config names the field and both values, and changes nothing."""
    before = (run / "config.toml").read_text()
    with pytest.raises(RunError, match=r"width = 32, not 64"):
        train(_config(width=64), run, resume=True)
    assert (run / "config.toml").read_text() == before


def test_checkpoint_of_another_architecture_is_refused(run, tmp_path):
    """A checkpoint that does not fit is one line, not a traceback of torch.load."""
    train(_config(width=16), tmp_path / "b")
    (tmp_path / "b" / "checkpoint.pt").replace(run / "checkpoint.pt")
    with pytest.raises(RunError, match="width = 16, not 32") as caught:
        train(_config(), run, resume=True)
    assert "\n" not in str(caught.value)


def test_trained_network_can_be_loaded(tmp_path):
    """load_trained gives the network with its latent weights; frozen, it predicts as the packed file."""
    train(_config(dropout_in=0.0), tmp_path)
    model = load_trained(tmp_path)
    assert all(p.abs().max() <= 1 for p in latent_parameters(model))
    data = load_dataset("digits")
    net = load(tmp_path / "model.bnn")
    x = np.float32((data.test_inputs / 255 - net.model.input.mean) / net.model.input.std)
    with torch.no_grad():
        predicted = freeze(model)(torch.from_numpy(x)).argmax(1)
    np.testing.assert_array_equal(net.predict(data.test_inputs), predicted.numpy())
    with pytest.raises(RunError, match=r"has no checkpoint\.pt"):
        load_trained(tmp_path / "elsewhere")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_damaged_checkpoint_is_refused(run, content):
    """Garbage in checkpoint.pt is one line that names the file, where there is none before it."""
    (run / "checkpoint.pt").write_bytes(content)
    (run / "checkpoint-before.pt").unlink()
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged") as caught:
        train(_config(), run, resume=True)
    assert "\n" not in str(caught.value)


def _flipped(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def test_a_checkpoint_is_a_sound_archive(run):
    """Its seal is a comment, which leaves it what PyTorch and others read."""
    assert len(torch.load(run / "checkpoint.pt", weights_only=True)["rows"]) == 2
    with zipfile.ZipFile(run / "checkpoint.pt") as archive:
        assert archive.testzip() is None
        assert len(archive.comment) == 32


def test_a_flipped_byte_is_refused(run):
    """Wherever it is: in the weights, in the archive's structure, in the seal."""
    path = run / "checkpoint.pt"
    content = path.read_bytes()
    positions = [0, len(content) // 2, *range(len(content) - 60, len(content))]
    for position in positions + random.Random(0).sample(range(len(content)), 100):
        path.write_bytes(_flipped(content, position))
        with pytest.raises(RunError, match=r"checkpoint\.pt is damaged: its bytes are not those") as caught:
            load_trained(run)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_an_earlier_release_is_read(run):
    """It has no seal."""
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    before = load_trained(run).state_dict()
    torch.save(content, run / "checkpoint.pt")
    assert all(torch.equal(value, before[name]) for name, value in load_trained(run).state_dict().items())


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_the_checkpoint_before_is_taken_where_the_last_is_damaged(run, finished, damage):
    """Resuming says so, and from which epoch it goes on; the outcome is the same. `load_trained` refuses."""
    path = run / "checkpoint.pt"
    content = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(_flipped(content, 1000))
    with pytest.raises(RunError, match=r"has no checkpoint\.pt|checkpoint\.pt is damaged"):
        load_trained(run)
    with pytest.warns(RuntimeWarning, match=r"goes on from checkpoint-before\.pt, after epoch 1$"):
        train(_config(), run, resume=True)
    assert _outcome(run) == _outcome(finished)
    assert len(torch.load(run / "checkpoint-before.pt", weights_only=True)["rows"]) == 1
    trained = [load_trained(folder).state_dict() for folder in (run, finished)]
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())


def test_a_good_checkpoint_is_never_replaced_by_a_damaged_one(run, monkeypatch):
    """Stopped again before its first new checkpoint, a run that went on from the one before still can."""
    (run / "checkpoint.pt").write_bytes(b"damaged")

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train_epoch", stop)
        with pytest.warns(RuntimeWarning, match="after epoch 1"), pytest.raises(KeyboardInterrupt):
            train(_config(), run, resume=True)
    with pytest.warns(RuntimeWarning, match=r"has no checkpoint\.pt: goes on from .* after epoch 1"):
        train(_config(), run, resume=True)


def test_both_checkpoints_damaged(run):
    """The last is named, and nothing is lost or begun."""
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        (run / name).write_bytes(b"damaged")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        train(_config(), run, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_checkpoint(run):
    """It is not waited for."""
    (run / "checkpoint.pt").unlink()
    os.mkfifo(run / "checkpoint.pt")
    with pytest.raises(OSError, match=r"a pipe, not a file: .*checkpoint\.pt"):
        load_trained(run)
    (run / "checkpoint.pt").unlink()
    (run / "checkpoint.pt").symlink_to("/dev/zero")
    for read in (load_trained, lambda folder: train(_config(), folder, resume=True)):
        with pytest.raises(OSError, match=r"a device, not a file: .*checkpoint\.pt"):
            read(run)
    (run / "config.toml").unlink()
    os.mkfifo(run / "config.toml")
    with pytest.raises(UserError, match=r"config\.toml: a pipe, not a file"):
        train(_config(), run, resume=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_planted_for_a_runs_files_is_replaced(run):
    """A pipe would be waited for by the writer, and a device lose the file."""
    written = {name: (run / name).read_bytes() for name in ("metrics.csv", "result.json", "model.bnn")}
    for name in written:
        (run / name).unlink()
    os.mkfifo(run / "metrics.csv")
    (run / "result.json").symlink_to("/dev/zero")
    os.mkfifo(run.parent / "pipe")
    (run / "model.bnn").symlink_to(run.parent / "pipe")
    train(_config(), run, resume=True)
    assert not any((run / name).is_symlink() for name in written)
    assert {name: (run / name).read_bytes() for name in written} == written


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_events_stay_in_the_runs_folder(run):
    """A `tensorboard` that leads elsewhere is refused; only events that are files are removed."""
    victim = run.parent / "victim"
    (run / "tensorboard").rename(victim)
    (run / "tensorboard").symlink_to(victim)
    before = sorted(victim.iterdir())
    for how in ({"force": True}, {"resume": True}):
        with pytest.raises(UserError, match="tensorboard is no folder, or leads to another: delete it"):
            train(_config(), run, **how)
    assert sorted(victim.iterdir()) == before
    assert (run / "checkpoint.pt").exists()
    (run / "tensorboard").unlink()
    mine = run / "tensorboard" / "events.log"
    old = run / "tensorboard" / "events.out.tfevents.1"
    link = run / "tensorboard" / "events.out.tfevents.2"
    mine.parent.mkdir()
    mine.write_text("mine")
    old.write_text("")
    link.symlink_to(mine)
    train(_config(), run, force=True)
    assert (mine.read_text(), old.exists(), link.is_symlink()) == ("mine", False, True)


def test_a_wide_model_of_ones_own_gets_its_result(tmp_path, monkeypatch):
    """The limits are for strangers' models: who trained for a night gets a result."""
    train(_config(), tmp_path)
    for name in ("max_memory", "max_work"):
        monkeypatch.setitem(Runner.__init__.__kwdefaults__, name, 1)
        with pytest.raises(UserError):
            Runner(PackedModel.load(tmp_path / "model.bnn"))
    monkeypatch.setattr(PackedModel.load.__func__, "__defaults__", (1,))
    with pytest.raises(UserError):
        PackedModel.load(tmp_path / "model.bnn")
    assert 0 < train(_config(), tmp_path, force=True).packed < 1


def test_the_checkpoint_that_was_read_is_named(run):
    """Also where it is the one before."""
    shutil.copy(run / "checkpoint.pt", run / "checkpoint-before.pt")
    (run / "checkpoint.pt").write_bytes(b"damaged")
    other = _config(seed=77)
    (run / "config.toml").write_text(other.to_toml())
    with pytest.raises(RunError, match=r"checkpoint-before\.pt was made with seed = "):
        train(other, run, resume=True)


def test_too_little_memory_is_no_damage(run, monkeypatch):
    """A checkpoint that did not fit into memory stays."""

    def load(*args, **more):
        raise MemoryError

    monkeypatch.setattr("torch.load", load)
    with pytest.raises(MemoryError):
        train(_config(), run, resume=True)
    assert (run / "checkpoint.pt").exists()


def test_nan_loss_stops_with_the_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    """A loss that becomes NaN in the second epoch names its step; the first epoch's checkpoint is kept."""
    config = _config(epochs=3, loss="squared_hinge")
    calls: list[int] = []  # 1,200 digits to train on: 12 steps an epoch; number 17 is the second one's 5th
    true_loss = run_module.LOSSES["squared_hinge"]

    def poisoned(logits, labels):
        calls.append(len(labels))
        return true_loss(logits, labels) * (math.nan if calls.count(100) == 17 else 1)

    monkeypatch.setitem(run_module.LOSSES, "squared_hinge", poisoned)
    with pytest.raises(TrainingDiverged, match=r"the loss is nan at step 17 \(epoch 2\)"):
        train(config, tmp_path)
    assert len(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["rows"]) == 1


def test_nan_latent_weight_is_noticed(tmp_path, monkeypatch):
    """A latent NaN has a sign and leaves the loss finite; the run stops all the same and names the layer."""
    monkeypatch.setattr("bnn.training.building.clip_latent_weights", _poison)
    with pytest.raises(TrainingDiverged, match=r"1\.weight holds NaN or infinity by step 12"):
        train(_config(dropout_in=0.0), tmp_path)


def _poison(optimizer, model):
    def hook(*args):
        with torch.no_grad():
            model[1].parametrizations.weight.original[0, 0] = math.nan

    optimizer.register_step_post_hook(hook)


def test_validation_is_the_last_part():
    """Training never sees the validation samples, nor does the normalisation."""
    data = load_dataset("digits")
    config = _config()
    training, validation, (mean, std) = split(data, config.validation, torch.device("cpu"))
    assert len(validation) == config.validation
    np.testing.assert_array_equal(validation.images.numpy(), data.train_inputs[-config.validation :])
    assert len(training) + len(validation) == len(data.train_inputs)
    pixels = data.train_inputs[: len(training)] / 255
    assert mean == [pytest.approx(pixels.mean())]
    assert std == [pytest.approx(pixels.std())]


def test_the_test_set_is_not_read_before_the_last_epoch(tmp_path, monkeypatch):
    """Until the last epoch is over nothing touches the test images."""
    digits = load_dataset("digits")
    epochs_done, read_after = [], []

    class Watched:
        def __getattr__(self, name):
            if name.startswith("test_"):
                read_after.append(len(epochs_done))
            return getattr(digits, name)

    monkeypatch.setattr(run_module, "load_dataset", lambda *args: Watched())
    train(_config(), tmp_path, progress=Epochs(epochs_done.append))
    assert set(read_after) == {2}


@pytest.mark.usefixtures("drawn")
def test_without_validation_the_columns_are_empty(tmp_path):
    """validation = 0 trains on everything and leaves loss_val and acc_val blank."""
    rows: list[Row] = []
    train(_config(validation=0, epochs=1), tmp_path, progress=Epochs(rows.append))
    assert rows[0].loss_val is None
    assert metrics_csv(rows).splitlines()[1].split(",")[2] == ""


def test_too_much_validation_is_refused(tmp_path):
    """A validation set that leaves nothing to train on is a ConfigError with the figures."""
    with pytest.raises(ConfigError, match="validation = 5000 of 1500 leaves 0"):
        train(_config(validation=5000), tmp_path)


def test_unknown_model_and_device_are_named(tmp_path):
    """A mistyped architecture gets a suggestion, an absent device a reason."""
    with pytest.raises(ConfigError, match="did you mean 'binarynet_mlp'"):
        train(_config(model="binarynet_mpl"), tmp_path / "a")
    with pytest.raises(ConfigError, match="device = 'gpu9' cannot be used"):
        train(_config(device="gpu9"), tmp_path / "b")


def test_learning_rate_schedules():
    """Each schedule starts at lr after the warm-up and ends at lr_final, by its formula in between."""
    for schedule, middle in (
        ("exponential", math.sqrt(1e-3)),
        ("linear", (1 + 1e-3) / 2),
        ("cosine", (1 + 1e-3) / 2),
    ):
        config = TrainConfig(schedule=schedule, lr=1.0, lr_final=1e-3, epochs=12, warmup=2.0)
        assert lr_factor(config, 0) == 0
        assert lr_factor(config, 1) == pytest.approx(0.5)
        assert lr_factor(config, 2) == pytest.approx(1)
        assert lr_factor(config, 7) == pytest.approx(middle)
        assert lr_factor(config, 12) == pytest.approx(1e-3)
    constant = TrainConfig(schedule="constant", epochs=12)
    assert [lr_factor(constant, t) for t in (0, 5, 12)] == [1, 1, 1]


def test_evaluate_weighs_batches_by_their_size():
    """Loss and accuracy are means over samples, not over batches."""
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0, 0])
    batches = iter([(logits[:2], labels[:2]), (logits[2:], labels[2:])])
    _, accuracy = evaluate(torch.nn.Identity(), batches)
    assert accuracy == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no batch"):
        evaluate(torch.nn.Identity(), iter([]))


def test_batch_larger_than_the_data_is_one_step(tmp_path):
    """A batch size beyond the training set takes the whole set each step."""
    rows: list[Row] = []
    train(_config(batch_size=10**6, epochs=1), tmp_path, progress=Epochs(rows.append))
    assert rows[0].acc_train > 0


def test_metrics_lost_after_the_last_checkpoint_are_written_again(run):
    """Killed between its last checkpoint and the metrics, a resumed run has every row."""
    whole = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    train(_config(), run, resume=True)
    assert (run / "metrics.csv").read_text() == whole


def test_only_its_own_leftovers_are_removed(tmp_path):
    """What a killed writer left is cleared away; a user's hidden files and folders stay."""
    mine = [tmp_path / ".notes.tmp.txt", tmp_path / ".checkpoint.tmp.pt"]
    for path in mine:
        path.write_text("mine")
    (tmp_path / ".dir.1.tmp").mkdir()
    (tmp_path / ".checkpoint.4711.tmp.pt").write_text("half a checkpoint")
    train(_config(epochs=1), tmp_path)
    assert all(path.read_text() == "mine" for path in mine)
    assert (tmp_path / ".dir.1.tmp").is_dir()
    assert not (tmp_path / ".checkpoint.4711.tmp.pt").exists()


def test_resume_and_force_exclude_each_other(run):
    """Going on and starting anew at once is refused, and nothing is cleared."""
    before = (run / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match="give one of them"):
        train(_config(), run, resume=True, force=True)
    assert (run / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("changes", [{"validation": 499}, {"recalibrate": 2}, {"recalibrate": 0}])
def test_recalibration_takes_any_number_of_samples(tmp_path, changes):
    """1,001 samples are no batch of 1,000 and one of 1, which would have no variance."""
    result = train(_config(weights="stochastic", **changes), tmp_path)
    assert result.packed == result.frozen


@pytest.mark.parametrize(
    ("changes", "anew"),
    [
        ({"weights": "stochastic"}, True),
        ({"dropout_in": 0.3}, True),
        ({"dropout_in": 0.0, "dropout": 0.3, "weights": "float"}, True),
        ({"dropout_in": 0.0, "adversarial": 0.1}, True),
        ({"dropout_in": 0.3, "recalibrate": 0}, False),
        ({"dropout_in": 0.0}, False),
        ({"dropout_in": 0.0, "weights": "float"}, False),
    ],
)
def test_what_trained_otherwise_is_tested_with_new_statistics(tmp_path, changes, anew):
    """Random signs, dropout and adversarial images call for new statistics, in a copy; nothing else does."""
    config = _config(**changes)
    train(config, tmp_path)
    model = load_trained(tmp_path)
    training, _, _ = split(load_dataset("digits"), config.validation, torch.device("cpu"))
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))
    before = norm.running_var.clone()
    tested = next(
        m for m in as_tested(config, model, training).modules() if isinstance(m, torch.nn.BatchNorm1d)
    )
    assert torch.equal(tested.running_var, before) is not anew
    assert torch.equal(norm.running_var, before)


def test_a_float_run_that_diverges_keeps_a_good_checkpoint(tmp_path):
    """Weights that blow up stop the run in the epoch; no checkpoint of it is written."""
    config = _config(
        weights="float", optimizer="sgd", lr=1e30, schedule="constant", batch_size=2000, epochs=6
    )
    with pytest.raises(TrainingDiverged, match="the last good checkpoint is kept"):
        train(config, tmp_path)
    if (tmp_path / "checkpoint.pt").exists():
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
        assert all(v.isfinite().all() for v in state.values())


@pytest.mark.parametrize("broken", ["shape", "model"])
def test_a_checkpoint_that_does_not_fit_is_a_run_error(run, broken):
    """Missing entries and foreign weights are one line that names the folder, loading and resuming."""
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    if broken == "shape":
        del content["shape"]
    else:
        content["model"]["more"] = torch.zeros(1)
        torch.save(content, run / "checkpoint.pt")
        with pytest.raises(RunError, match=r"another architecture: .*Unexpected key.*more"):
            train(_config(), run, resume=True)
    torch.save(content, run / "checkpoint.pt")
    with pytest.raises(RunError, match=r"does not fit") as caught:
        load_trained(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["seeds.json", "model.bnn", "checkpoint.pt"])
def test_a_folder_with_results_is_not_taken(tmp_path, name):
    """A folder that holds another run's file, even without its config, is refused."""
    (tmp_path / name).write_text("x")
    with pytest.raises(RunError, match=str(tmp_path)):
        train(_config(), tmp_path)
    assert (tmp_path / name).read_text() == "x"


def test_a_run_moves_to_another_device(tmp_path):
    """What was begun on one device goes on on another: the name is no part of the run."""
    stopped = RuntimeError("stop")

    def stop(row):
        raise stopped

    with pytest.raises(RuntimeError, match="stop"):
        train(_config(), tmp_path, progress=Epochs(stop))
    assert len(_metrics(tmp_path)) == 1
    train(_config(device="cpu:0"), tmp_path, resume=True)
    assert len(_metrics(tmp_path)) == 2


@pytest.mark.parametrize("how", [{}, {"force": True}, {"resume": True}])
def test_a_folder_has_one_run_at_a_time(run, how):
    """While one is alive another is refused before it changes anything, whatever it would do there."""
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with one_writer(run), pytest.raises(UserError, match=r"run is being written by process \d+ on"):
        train(_config(), run, **how)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_run_holds_its_folder_until_it_ends(tmp_path):
    """In the same process too, and also one that ends in an error; then nothing is left of it."""
    held = []

    def stop(row):
        with pytest.raises(UserError, match="is being written by"):
            train(_config(), tmp_path, force=True)
        held.append(row.epoch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_config(), tmp_path, progress=Epochs(stop))
    assert held == [1]
    assert not list(tmp_path.glob(".*"))
    train(_config(), tmp_path, resume=True)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_events(run):
    """Each epoch once, also where a run was resumed from the checkpoint before and did one again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run / "checkpoint.pt").unlink()
    with pytest.warns(RuntimeWarning, match="after epoch 1"):
        train(_config(), run, resume=True)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for name in ("loss_train", "acc_val", "flip_ratio"):
        expected = [pytest.approx(float(row[name])) for row in _metrics(run)]
        assert [event.value for event in events.Scalars(name)] == expected
    layer = next(layer for layer in load_trained(run).modules() if isinstance(layer, torch.nn.Linear))
    histogram = events.Histograms("latent/2.weight")[-1].histogram_value
    assert histogram.num == sum(histogram.bucket) == layer.weight.numel()


def test_a_full_disk_is_named_by_tensorboards_file(tmp_path, monkeypatch):
    """No thread of its own prints a traceback."""
    with Events(tmp_path / "tensorboard", 1) as events:

        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(events._records, "write", full)
        with pytest.raises(OSError, match=r"No space left.*events\.out"):
            events.write(Row(1, 1.0, None, 0.5, None, 0.1, None, None, None, None, 0.1, 1.0), [])
