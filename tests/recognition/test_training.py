"""Training sees what a terminal sends, learns budgets of a fixed total, and survives being killed."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recognition.checkpoint import load_model, model_folder
from recognition.frequency import to_frequency
from recognition.heads import ArcFace, CosFace
from recognition.noise import code_thresholds
from recognition.training import ship, teach
from recognition.training.config import CONFIGS
from recognition.training.data import Encoded, Faces, draw, hold_out, join, read_folder, read_pack, read_tar
from recognition.training.perturbation import Perturbation, Transform, fit_profile, measure
from recognition.training.train import Run
from tests.recognition.evaluation.faces import people, write_pack
from tests.tiny_model import synthetic_picture

SMALL = replace(
    CONFIGS["small-critical"], passes=64, batch_size=8, distil_bank=8, warmup_steps=2, attacker_weight=1.0
)


@pytest.fixture(scope="module")
def faces() -> Faces:
    pixels = np.stack([synthetic_picture(seed).pixels for seed in range(24)])
    teacher = np.random.default_rng(0).normal(size=(24, 256)).astype(np.float32)
    return Faces(pixels, np.repeat(np.arange(6), 4), teacher / np.linalg.norm(teacher, axis=1, keepdims=True))


def coefficients(faces: Faces, transform: str = "critical") -> torch.Tensor:
    return Transform(transform)(torch.from_numpy(faces.pixels).permute(0, 3, 1, 2).float())


def perturbation(faces: Faces, **changes: object) -> Perturbation:
    values = coefficients(faces).numpy()
    face = np.zeros((3, 112, 112), np.float32)
    return Perturbation(replace(SMALL, **changes), measure(values, face, clip_quantile=0.001))  # type: ignore[arg-type]


@pytest.mark.parametrize("transform", ["critical", "paper"])
def test_the_tensor_transform_is_the_terminals(faces: Faces, transform: str) -> None:
    ours = coefficients(faces.take(np.arange(1)), transform)[0].numpy()
    theirs = to_frequency(synthetic_picture(0), transform).values
    assert np.abs(ours - theirs).max() < 2e-3


def test_budgets_sum_to_what_the_config_grants_whatever_was_learned(faces: Faces) -> None:
    module = perturbation(faces, epsilon_mean=8.0)
    with torch.no_grad():
        module.free += torch.randn_like(module.free)
    assert float(module.epsilon().detach().mean()) == pytest.approx(8.0, rel=1e-4)


def test_gradients_of_the_loss_reach_the_budgets_through_the_noise(faces: Faces) -> None:
    module = perturbation(faces)
    values, gain = module(coefficients(faces))
    (values * gain).square().mean().backward()
    assert module.free.grad is not None
    assert float(module.free.grad.abs().max()) > 0


def test_the_attackers_recovery_falls_when_budgets_shrink(faces: Faces) -> None:
    figures = [float(perturbation(faces, epsilon_mean=e).recovery().detach()) for e in (64.0, 16.0, 4.0, 1.0)]
    assert figures == sorted(figures, reverse=True)
    assert 0 <= figures[-1] < figures[0] <= 1


def test_after_freezing_training_draws_the_very_codes_a_terminal_sends(faces: Faces) -> None:
    module = perturbation(faces, epsilon_mean=8.0)
    profile = fit_profile(module, name="frozen")
    module.freeze(profile)
    channel = int(np.flatnonzero(profile.bits == profile.bits.max())[0])
    value = float(profile.centre[channel] + 0.7 * profile.step[channel])
    same = torch.full((400, *profile.shape), 0.0)
    same[:, channel] = value
    torch.manual_seed(5)
    values, gain = module(same)
    assert np.allclose(gain.numpy(), profile.gain)
    known = np.sort(
        profile.values_of(
            np.broadcast_to(np.arange(16)[:, None, None, None], (16, *profile.shape)).astype(np.uint8)
        )[:, channel, 0, 0]
    )
    known = known[: 1 << int(profile.bits[channel])]
    drawn = values[:, channel].numpy().ravel()
    assert np.abs(drawn[:, None] - known[None]).min(axis=1).max() < 1e-2 * profile.step[channel]
    clipped = np.clip(value, profile.low[channel], profile.high[channel])
    tails = (
        code_thresholds(
            np.array([clipped]),
            profile.centre[channel],
            profile.step[channel],
            profile.scale[channel, :1, 0],
            int(profile.bits[channel]),
        )[:, 0]
        / 2**32
    )
    expected = -np.diff(np.concatenate([[1.0], tails, [0.0]]))
    counts = np.array([(np.abs(drawn - level) < 0.1 * profile.step[channel]).mean() for level in known])
    assert np.abs(counts - expected).max() < 0.01


def test_a_fitted_profile_keeps_a_capture_small_and_drops_dead_channels(faces: Faces) -> None:
    module = perturbation(faces, epsilon_mean=8.0)
    module.live[5] = False
    profile = fit_profile(module, name="fitted")
    assert profile.bits[5] == 0
    assert profile.payload_bits / 8 <= 40_000


def test_a_paper_capture_fits_its_limit(faces: Faces) -> None:
    config = replace(CONFIGS["small-paper"], epsilon_mean=16.0)
    values = coefficients(faces.take(np.arange(4)), "paper").numpy()
    module = Perturbation(config, measure(values, np.zeros((3, 112, 112), np.float32), clip_quantile=0.001))
    assert fit_profile(module, name="paper").payload_bits / 8 <= 300_000


def test_a_killed_run_goes_on_where_its_checkpoint_was(faces: Faces, tmp_path: Path) -> None:
    run = Run(SMALL, faces, tmp_path)
    for _ in range(5):
        run.step()
    run.save()
    weights = {key: value.clone() for key, value in run.student.state_dict().items()}
    profile = run.profile
    del run
    resumed = Run(SMALL, faces, tmp_path)
    assert resumed.passes == 40
    assert all(torch.equal(value, weights[key]) for key, value in resumed.student.state_dict().items())
    assert (resumed.profile is None) == (profile is None)
    resumed.train(lambda run, parts: None)
    assert resumed.share_done() == 1
    assert resumed.profile is not None


def test_a_folder_of_another_config_is_not_resumed(faces: Faces, tmp_path: Path) -> None:
    Run(SMALL, faces, tmp_path).save()
    with pytest.raises(ValueError, match="another config"):
        Run(replace(SMALL, epsilon_mean=1.0), faces, tmp_path)


def test_training_lowers_the_loss(faces: Faces, tmp_path: Path) -> None:
    config = replace(SMALL, epsilon_mean=None, augment=False, passes=800, exact_share=0.0, easy_share=0.0)
    losses: list[float] = []
    Run(config, faces, tmp_path).train(lambda run, parts: losses.append(parts["teacher"]))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_places_have_budgets_of_their_own_and_the_total_stays(faces: Faces, tmp_path: Path) -> None:
    config = replace(
        SMALL,
        position_budgets=True,
        attacker_weight=0.0,
        easy_share=0.0,
        exact_share=0.0,
        budget_learning_rate=0.2,
    )
    run = Run(config, faces, tmp_path)
    for _ in range(4):
        run.step()
    learned = run.student.perturbation
    assert learned is not None
    epsilon = learned.epsilon().detach()
    assert epsilon.shape == (189, 14, 14)
    assert float(epsilon.mean()) == pytest.approx(16.0, rel=1e-4)
    profile = fit_profile(learned, name="places")
    assert profile.position_weight.max() > 1.05 > 0.95 > profile.position_weight.min()
    sent = torch.from_numpy(profile.epsilon[profile.sent])
    assert torch.allclose(sent, epsilon[torch.from_numpy(profile.sent)].double(), rtol=0.01)


def test_the_papers_run_shares_its_budget_among_channels_and_places(faces: Faces) -> None:
    config = replace(CONFIGS["paper"], backbone="small")
    values = coefficients(faces.take(np.arange(2)), "paper").numpy()
    learned = Perturbation(config, measure(values, np.zeros((3, 112, 112), np.float32), clip_quantile=0.001))
    with torch.no_grad():
        for budget in learned.budget_parameters():
            budget.add_(0.3 * torch.randn_like(budget))
    assert float(learned.epsilon().detach().double().mean()) == pytest.approx(0.5, rel=1e-4)
    loss = learned.recovery()
    loss.backward()
    assert all(
        budget.grad is not None and budget.grad.abs().max() > 0 for budget in learned.budget_parameters()
    )
    assert len(fit_profile(learned, name="paper").to_json()) < 1_000_000


def test_the_papers_schedule_divides_the_rates_of_network_and_budgets(faces: Faces, tmp_path: Path) -> None:
    """Ji et al.: both optimizers step down at epochs 10, 18 and 22 of 24; both go on after a kill."""
    config = replace(
        SMALL, optimizer="sgd", schedule="steps", learning_rate=0.1, budget_learning_rate=0.1,
        warmup_steps=0, passes=24 * 8, easy_share=0.0, exact_share=0.0,
    )  # fmt: skip
    run = Run(config, faces, tmp_path)
    rates = []
    for _ in range(24):
        run.step()
        rates.append({group["lr"] for optimizer in run.optimizers for group in optimizer.param_groups})
    assert [len(one) for one in rates] == [1] * 24, "one rate for both"
    assert [one.pop() for one in rates] == pytest.approx([0.1] * 10 + [0.01] * 8 + [0.001] * 4 + [0.0001] * 2)
    run.save()
    resumed = Run(config, faces, tmp_path)
    for before, after in zip(run.optimizers, resumed.optimizers, strict=True):
        kept, found = before.state_dict()["state"], after.state_dict()["state"]
        assert kept.keys() == found.keys() and kept
        assert all(torch.equal(kept[k][name], found[k][name]) for k in kept for name in kept[k])


def test_a_run_accepts_other_noise_levels_and_keeps_them_over_a_kill(faces: Faces, tmp_path: Path) -> None:
    config = replace(
        SMALL, budgets="uniform", epsilon_mean=8.0, other_epsilons=(16.0,), easy_share=0.0, exact_share=1.0
    )
    run = Run(config, faces, tmp_path)
    for _ in range(3):
        run.step()
    run.save()
    assert run.profile is not None
    assert run.profile.epsilon_mean_per_coefficient == pytest.approx(8.0, rel=1e-3)
    assert [other.epsilon_mean_per_coefficient for other in run.also] == [pytest.approx(16.0, rel=1e-3)]
    resumed = Run(config, faces, tmp_path)
    assert [other.hash for other in resumed.also] == [other.hash for other in run.also]


def test_a_receiver_that_restores_comes_closer_to_the_clean_features(faces: Faces, tmp_path: Path) -> None:
    config = replace(CONFIGS["default-restore"], passes=400, batch_size=8, warmup_steps=2)
    run = Run(config, faces, tmp_path)
    trunk = {key: value.clone() for key, value in run.student.backbone.trunk.state_dict().items()}
    explained = [run.step()["restored"] for _ in range(50)]
    assert np.mean(explained[-10:]) > np.mean(explained[:10]) + 0.05
    assert all(
        torch.equal(value, trunk[key]) for key, value in run.student.backbone.trunk.state_dict().items()
    )


def test_the_first_run_takes_its_trunk_from_the_twin_that_ships(faces: Faces, tmp_path: Path) -> None:
    twin = model_folder("default-unprotected")
    run = Run(CONFIGS["default-restore"], faces, tmp_path, initial=twin)
    wanted = load_model(twin).backbone.trunk.state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in run.student.backbone.trunk.state_dict().items())


def test_the_twin_that_ships_is_a_teacher(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = write_pack(tmp_path / "faces.npz", people(3, 2))
    command = ["teach", "--pack", str(pack), "--out", str(tmp_path / "embeddings.npz")]
    monkeypatch.setattr("sys.argv", command)
    assert teach.main() == 0
    taught = read_pack(pack, teacher=tmp_path / "embeddings.npz")
    assert taught.teacher is not None and taught.teacher.shape == (6, 256)
    alone = teach.embeddings_of(
        load_model(model_folder("default-unprotected")).backbone.eval(), taught.pixels[np.array([2])]
    )
    assert np.allclose(taught.teacher[2], alone[0], atol=2e-3), "in the pack's order"
    monkeypatch.setattr("sys.argv", [*command, "--model", "default"])
    with pytest.raises(SystemExit):
        teach.main()
    assert "a teacher sees the picture" in capsys.readouterr().err


def test_a_slimmer_receiver_learns_to_answer_as_the_one_before_it_did(faces: Faces, tmp_path: Path) -> None:
    before = Run(
        replace(CONFIGS["default-restore"], passes=80, batch_size=8, warmup_steps=2), faces, tmp_path / "a"
    )
    for _ in range(10):
        before.step()
    before.save()
    config = replace(CONFIGS["default-slim-restore"], passes=480, batch_size=8, warmup_steps=2)
    slim = Run(config, faces, tmp_path / "b", initial=tmp_path / "a" / "state.pt")
    (example,) = slim.student.example
    assert not any(key.startswith("example") for key in slim.student.state_dict())

    x = torch.randn(4, *slim.student.backbone.receiver.mean.shape)

    def apart() -> float:
        restorer = slim.student.backbone.receiver.restorer
        assert restorer is not None
        with torch.no_grad():
            return float((restorer.eval()(x) - example(x)).square().mean())

    at_first = apart()
    slim.student.backbone.train()
    for _ in range(60):
        slim.step()
    assert apart() < at_first / 2


def test_a_shipped_run_names_nobody_until_it_is_calibrated(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(
        SMALL, budgets="uniform", epsilon_mean=8.0, other_epsilons=(16.0,), easy_share=0.0, exact_share=1.0
    )
    run = Run(config, faces, tmp_path / "run")
    run.step()
    run.save()
    arguments = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "model"), "--name", "tried"]
    arguments += ["--profiles", "strict", "balanced", "--default", "balanced"]
    monkeypatch.setattr("sys.argv", ["ship", *arguments])
    assert ship.main() == 0
    model = load_model(tmp_path / "model")
    assert [one.profile.name for one in model.accepted] == ["balanced", "strict"]
    assert json.loads(capsys.readouterr().out)["profiles"]["strict"] == model.accepted[1].profile.hash
    assert model.accepted[0].calibration.threshold_for(gallery_size=1, target_fpir=0.5) == 1.0


def test_every_named_config_is_consistent_and_named_after_itself() -> None:
    assert {"paper", "paper-unprotected", "default", "small-unprotected"} <= set(CONFIGS)
    assert all(name == config.name for name, config in CONFIGS.items())


def test_margin_heads_agree_with_their_formulas() -> None:
    torch.manual_seed(1)
    embeddings, labels = torch.randn(5, 16), torch.tensor([0, 1, 2, 1, 0])
    for head, rule in (
        (ArcFace(16, 3), lambda angle: np.cos(angle + 0.4)),
        (CosFace(16, 3), lambda angle: np.cos(angle) - 0.4),
    ):
        logits = head(embeddings, labels).detach().numpy() / 64
        unit = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(head.centres).T
        cosine = unit.detach().numpy()
        for row, label in enumerate(labels.tolist()):
            for column in range(3):
                angle = np.arccos(cosine[row, column])
                wanted = rule(angle) if column == label else cosine[row, column]
                assert logits[row, column] == pytest.approx(wanted, abs=1e-5)


def encoded(seed: int) -> bytes:
    return cv2.imencode(".png", synthetic_picture(seed).pixels[:, :, ::-1])[1].tobytes()


def test_faces_come_alike_from_pack_folder_and_tar(tmp_path: Path) -> None:
    pictures = [("anna", 1), ("anna", 2), ("bert", 3)]
    blobs = [encoded(seed) for _, seed in pictures]
    offsets = np.cumsum([0, *map(len, blobs)])
    np.savez(
        tmp_path / "pack.npz", blob=np.frombuffer(b"".join(blobs), np.uint8), offsets=offsets,
        labels=np.array([0, 0, 1], np.int32), overlap=np.array([False, True, False]),
    )  # fmt: skip
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for (name, seed), blob in zip(pictures, blobs, strict=True):
            (tmp_path / "folder" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name / f"{seed}.png").write_bytes(blob)
            member = tarfile.TarInfo(f"{name}/{seed}.png")
            member.size = len(blob)
            archive.addfile(member, io.BytesIO(blob))
    sets = [
        read_pack(tmp_path / "pack.npz"),
        read_folder(tmp_path / "folder"),
        read_tar([tmp_path / "shard.tar"]),
    ]
    for faces in sets:
        assert (faces.pixels[2] == synthetic_picture(3).pixels).all()
        assert faces.labels.tolist() == [0, 0, 1]
    assert len(read_pack(tmp_path / "pack.npz", leave_out="overlap")) == 2
    assert join(sets[:2]).labels.tolist() == [0, 0, 1, 2, 2, 3]

    later = [
        read_pack(tmp_path / "pack.npz", encoded=True, leave_out="overlap"),
        read_folder(tmp_path / "folder", encoded=True),
        read_tar([tmp_path / "shard.tar"], encoded=True),
    ]
    assert all(isinstance(faces.pixels, Encoded) for faces in later), "nothing is decoded yet"
    everything = join(later)
    assert everything.labels.tolist() == [0, 1, 2, 2, 3, 4, 4, 5]
    shown = everything.take(everything.labels >= 1).pixels[np.array([0, -1, 1])]
    for picture, seed in zip(shown, (3, 3, 1), strict=True):
        assert (picture == synthetic_picture(seed).pixels).all()
    with pytest.raises(ValueError, match="some are not"):
        join([sets[0], later[0]])
    with tarfile.open(tmp_path / "small.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "folder", "folder")
    with pytest.raises(ValueError, match="uncompressed tar"):
        read_tar([tmp_path / "small.tar.gz"])


def test_held_out_people_are_never_trained_on(faces: Faces) -> None:
    training, validation = hold_out(faces, identities=2, seed=1, least_pictures=4)
    assert not set(training.labels) & set(validation.labels)
    assert len(training) + len(validation) == len(faces)


def test_balanced_drawing_shows_rare_people_as_often() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    faces = Faces(np.zeros((100, 112, 112, 3), np.uint8), labels)
    rows = draw(faces, count=4000, balanced=True, random=np.random.default_rng(0))
    assert 0.45 < (labels[rows] == 1).mean() < 0.55
    assert len(np.unique(rows)) == 100, "every picture of a person has its turn"


def test_faces_without_a_label_are_each_drawn_as_often_as_a_person() -> None:
    labels = np.array([-1, -1, -1, *[4] * 10])
    faces = Faces(np.zeros((13, 112, 112, 3), np.uint8), labels)
    rows = draw(faces, count=4000, balanced=True, random=np.random.default_rng(0))
    assert [(rows == k).mean() for k in range(3)] == pytest.approx([0.25] * 3, abs=0.04)
    assert (labels[rows] == 4).mean() == pytest.approx(0.25, abs=0.04)
