"""The attacks work where they must, weaken where they must, and count what they claim to count."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.budget import PrivacyProfile
from recognition.evaluation import metrics
from recognition.evaluation.attacks import linear, linkage, recovery, resnet34, runs, template
from recognition.evaluation.attacks.averaging import recover_person
from recognition.evaluation.attacks.judge import Judge, one_each
from recognition.evaluation.attacks.learned import LearnedAttack, Training, ssim
from recognition.evaluation.attacks.linear import linear_attack
from recognition.evaluation.attacks.observation import (
    AnyOf,
    Coded,
    CodeReader,
    FloatNoise,
    Nothing,
    PublicCode,
)
from recognition.evaluation.attacks.operator import (
    Misfit,
    Operator,
    crops_from_planes,
    planes_from_crops,
    transposed,
)
from recognition.evaluation.attacks.replicas import Replicas
from recognition.evaluation.report import PORTRAIT_POINTS, portrait
from recognition.fetch_models import Part
from recognition.frequency import to_frequency
from recognition.types import FaceCrop
from tests.recognition.evaluation.faces import CoarseJudge, identities, people, write_judge
from tests.recognition.profiles import make_profile
from tests.tiny_model import tiny_profile

CROP = portrait()[None]  # the public-domain portrait, (1, 112, 112, 3)


def noisier(profile: PrivacyProfile, factor: float) -> PrivacyProfile:
    return replace(profile, channel_epsilon=profile.channel_epsilon / factor, step=profile.step * factor**0.5)


# --- the attacker's operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["paper", "critical"])
def test_the_attackers_operator_is_the_terminals_transform(transform: str) -> None:
    ours = Operator(transform).forward(planes_from_crops(CROP))[0].numpy()
    theirs = to_frequency(FaceCrop(CROP[0]), transform).values
    assert np.abs(ours - theirs).max() < 1e-3


def test_with_dc_the_operator_has_three_channels_more() -> None:
    planes = planes_from_crops(CROP)
    features = Operator("critical", with_dc=True).forward(planes)
    assert features.shape == (1, 192, 14, 14)
    assert features[0, 0, 0, 0] == pytest.approx(float(planes[0, 0, :8, :8].mean()) * 8, rel=1e-4)


@pytest.mark.parametrize("transform", ["paper", "critical"])
def test_the_folded_misfit_is_the_literal_sum_over_coefficients(transform: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (189, *[Operator(transform).blocks] * 2)
    y = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(shape, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 3, 112, 112, generator=generator, dtype=torch.float64)
    misfit, nothing = Misfit(Operator(transform), y, weight), torch.zeros_like(x)

    def literal(planes: torch.Tensor) -> torch.Tensor:
        return (weight * (Operator(transform).forward(planes) - y) ** 2).sum(dim=(1, 2, 3))

    assert torch.allclose(misfit(x) - misfit(nothing), literal(x) - literal(nothing), rtol=1e-9)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(literal(x).sum(), x)
    assert torch.allclose(misfit.gradient(x.detach()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transform", ["paper", "critical"])
def test_the_transpose_is_the_adjoint_of_the_operator(transform: str) -> None:
    generator = torch.Generator().manual_seed(0)
    operator = Operator(transform)
    x = torch.randn(2, 3, 112, 112, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 189, *[operator.blocks] * 2, generator=generator, dtype=torch.float64)
    there, back = (operator.forward(x) * y).sum(), (x * transposed(operator, y)).sum()
    assert float(there) == pytest.approx(float(back), rel=1e-9)


def test_the_priors_gradient_is_its_gradient() -> None:
    x = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(linear.total_variation(x).sum(), x)
    assert torch.allclose(linear.total_variation_gradient(x.detach()), expected, rtol=1e-9, atol=1e-12)


# --- reading codes ----------------------------------------------------------------------------------------


def test_a_code_is_read_as_the_mean_of_the_values_that_lead_to_it() -> None:
    profile = make_profile(bits=3, epsilon=20.0, reach=100.0)
    reader = CodeReader(profile)
    rng = np.random.default_rng(0)
    x = rng.laplace(0, profile.deviation[0] / np.sqrt(2), 400_000)
    noisy = np.clip(x, -100, 100) + rng.laplace(0, 200 / 20.0, x.size)
    code = np.clip(np.floor(noisy / profile.step[0] + 4), 0, 7).astype(int)
    for k in range(8):
        if (code == k).sum() > 2000:
            assert reader.means[0, 0, k] == pytest.approx(x[code == k].mean(), abs=0.5)


def test_a_reading_is_right_on_average_and_as_far_off_as_it_says() -> None:
    profile = make_profile(bits=2, epsilon=4.0)
    reader, rng = CodeReader(profile), np.random.default_rng(0)
    x = rng.laplace(0, profile.deviation[0] / np.sqrt(2), 400_000)
    noisy = x + rng.laplace(0, 200 / 4.0, x.size)
    code = np.clip(np.floor(noisy / profile.step[0] + 2), 0, 3).astype(np.uint8)
    unit, variance = reader.unbiased(
        np.ones((1, *profile.shape), np.float32), 1
    )  # what a reading of 1 becomes
    y = reader.means[0, 0][code] * unit[0, 0, 0, 0]
    assert np.polyfit(x, y, 1)[0] == pytest.approx(1.0, abs=0.03)
    assert np.mean((y - x) ** 2) == pytest.approx(variance[0, 0, 0], rel=0.03)


def test_channels_that_are_not_sent_say_nothing() -> None:
    bits = np.zeros(189, np.int64)
    bits[:5] = 2
    observation = Coded(make_profile(bits=bits)).observe(CROP, captures=1, seed=0)
    assert torch.isinf(observation.variance[5:]).all()
    assert torch.isfinite(observation.variance[:5]).all()
    assert (observation.values[:, 5:] == 0).all()


# --- linear -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["paper", "critical"])
def test_without_noise_the_linear_attack_returns_the_portrait(transform: str) -> None:
    recovered = linear.attack(Nothing(transform), CROP, steps=60 if transform == "paper" else 120)
    assert metrics.ssim(recovered[0], CROP[0]) > 0.9


def test_the_public_codes_default_noise_hides_nothing() -> None:
    recovered = linear.attack(PublicCode(), CROP, steps=60)
    assert metrics.ssim(recovered[0], CROP[0]) > 0.9


def test_more_noise_leaves_less_and_the_attack_never_sees_the_crop_itself() -> None:
    clear, hidden = tiny_profile(), noisier(tiny_profile(), 100)
    seen = metrics.ssim(linear_attack(clear, CROP, steps=50)[0], CROP[0])
    unseen = metrics.ssim(linear_attack(hidden, CROP, steps=50)[0], CROP[0])
    assert seen > unseen + 0.1


def test_an_attack_is_repeatable_by_its_seed() -> None:
    profile = noisier(tiny_profile(), 30)
    one, again, other = (linear_attack(profile, CROP, steps=10, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_closed_form_is_for_the_orthonormal_transform_only() -> None:
    colour = planes_from_crops(CROP).mean(dim=(2, 3))
    observation = Nothing("critical").observe(CROP, captures=1, seed=0)
    exact = crops_from_planes(linear.wiener(observation, colour))
    # Without DC every block loses its mean, so compare blocks by what is left of them.
    difference = exact[0].astype(float) - CROP[0]
    blocks = difference.reshape(14, 8, 14, 8, 3)
    within = blocks - blocks.mean(axis=(1, 3), keepdims=True)
    inside = (exact[0].reshape(14, 8, 14, 8, 3) % 255 > 0).all(
        axis=(1, 3, 4)
    )  # blocks nothing was clipped in
    assert np.abs(within.transpose(0, 2, 1, 3, 4)[inside]).max() < 3
    with pytest.raises(ValueError, match="critical"):
        linear.wiener(Nothing("paper").observe(CROP, captures=1, seed=0), colour)


def test_float_noise_is_the_profiles_own() -> None:
    profile = make_profile(bits=4, epsilon=10.0)
    observation = FloatNoise(profile).observe(np.repeat(CROP, 4, axis=0), captures=1, seed=0)
    clean = Operator("critical").forward(planes_from_crops(CROP)).clamp(-100, 100)
    error = (observation.values - clean).flatten().numpy()
    assert np.abs(error).mean() == pytest.approx(20.0, rel=0.02), "mean |Laplace(b)| is b = 200 / 10"


# --- averaging --------------------------------------------------------------------------------------------


def test_sixteen_captures_of_one_crop_show_more_than_one() -> None:
    profile = noisier(tiny_profile(), 30)
    single, many = (linear_attack(profile, CROP, captures=k, steps=40)[0] for k in (1, 16))
    assert metrics.ssim(many, CROP[0]) > metrics.ssim(single, CROP[0])


def test_averaging_divides_the_variance_by_the_number_of_captures() -> None:
    for protection in (
        FloatNoise(make_profile(bits=4, epsilon=2.0)),
        Coded(make_profile(bits=2, epsilon=2.0)),
    ):
        one, many = (protection.observe(CROP, captures=k, seed=0).variance.mean() for k in (1, 16))
        assert float(one / many) == pytest.approx(16, rel=0.1)


def test_different_crops_of_a_person_become_one_picture() -> None:
    crops = np.stack([CROP[0], np.roll(CROP[0], 1, axis=1)])
    recovered = recover_person(Nothing("critical"), crops)
    assert recovered.shape == (112, 112, 3) and recovered.dtype == np.uint8
    assert metrics.ssim(recovered, CROP[0]) > 0.5


# --- learned ----------------------------------------------------------------------------------------------


def test_the_attackers_ssim_is_the_ssim_that_is_reported() -> None:
    noisy = (
        np.clip(CROP + np.random.default_rng(0).normal(0, 20, CROP.shape), 0, 255).round().astype(np.uint8)
    )
    differentiable = float(ssim(planes_from_crops(noisy), planes_from_crops(CROP)))
    assert differentiable == pytest.approx(metrics.ssim(noisy[0], CROP[0]), abs=1e-3)


def test_training_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    crops = np.stack([crop.pixels for crop in people(3, 1).values()])
    protection = Coded(tiny_profile())

    def attacked(checkpoint: Path, *stops: int) -> np.ndarray:
        for stop in stops:
            training = Training(passes=6, batch=2, width=4)
            attack = LearnedAttack(protection, training, checkpoint)
            while attack.passes < stop:
                rng = np.random.default_rng((training.seed, attack.passes))
                attack._step(crops[rng.integers(len(crops), size=training.batch)], rng)
                attack.passes += training.batch
            attack.save()
        return attack.attack(crops)

    assert np.array_equal(attacked(tmp_path / "once.pt", 6), attacked(tmp_path / "twice.pt", 2, 6))


def test_learning_lowers_the_loss_and_a_checkpoint_of_another_protection_is_refused(tmp_path: Path) -> None:
    crops, losses = np.stack([crop.pixels for crop in people(4, 1).values()]), []
    training = Training(passes=48, batch=4, width=6)
    attack = LearnedAttack(Coded(tiny_profile()), training, tmp_path / "a.pt")
    attack.train(crops, progress=lambda passes, loss: losses.append(loss))
    assert attack.passes == 48
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    with pytest.raises(ValueError, match="was trained with protection"):
        LearnedAttack(Coded(tiny_profile("other")), training, tmp_path / "a.pt")


# --- judging ----------------------------------------------------------------------------------------------


def test_the_judges_threshold_lets_a_thousandth_of_strangers_pass(tmp_path: Path) -> None:
    images = people(160, 1)
    judge = Judge.open(write_judge(tmp_path / "judge.pt"), images, identities(images))
    vectors = judge.embed(np.stack([images[name].pixels for name in sorted(images)]))
    scores = judge.scores(vectors, vectors)[np.triu_indices(160, k=1)]
    assert np.allclose(scores, (vectors @ vectors.T)[np.triu_indices(160, k=1)], atol=1e-6), "cosines"
    assert judge.comparisons == scores.size
    assert np.mean(scores >= judge.threshold) <= 1e-3
    assert judge.accepted(CROP, CROP).tolist() == [True]


def tiny_weights(rng: np.random.Generator) -> tuple[bytes, bytes]:
    """A manifest and weights of the judge's shape: every other tensor in 8 bits, as the published ones mix them."""
    entries, blob = [], b""

    def add(name: str, shape: tuple[int, ...], size: float, middle: float = 0.0) -> None:
        nonlocal blob
        entry: dict[str, object] = {"name": name, "shape": list(shape), "dtype": "float32"}
        if len(entries) % 2:
            entry["quantization"] = {"dtype": "uint8", "scale": 2 * size / 255, "min": middle - size}
            blob += rng.integers(0, 256, int(np.prod(shape)), dtype=np.uint8).tobytes()
        else:
            blob += (middle + rng.uniform(-size, size, shape)).astype("<f4").tobytes()
        entries.append(entry)

    def convolution(name: str, side: int, inputs: int, outputs: int) -> None:
        add(f"{name}/conv/filters", (side, side, inputs, outputs), (3 / (side * side * inputs)) ** 0.5)
        add(f"{name}/conv/bias", (outputs,), 0.01)
        add(f"{name}/scale/weights", (outputs,), 0.1, 1.0)
        add(f"{name}/scale/biases", (outputs,), 0.1)

    convolution("conv32_down", 7, 3, 32)
    before = 32
    for width, count in resnet34.STAGES:
        names = ([f"conv{width}_down"] if width > 32 else []) + [f"conv{width}_{k + 1}" for k in range(count)]
        for name in names:
            convolution(f"{name}/conv1", 3, before, width)
            convolution(f"{name}/conv2", 3, width, width)
            before = width
    convolution("conv256_down_out/conv1", 3, 256, 256)
    convolution("conv256_down_out/conv2", 3, 256, 256)
    add("fc", (256, 128), 0.1)
    return json.dumps([{"weights": entries}]).encode(), blob


def test_the_judges_weights_are_read_as_they_were_written() -> None:
    manifest, blob = tiny_weights(np.random.default_rng(0))
    weights = resnet34.decode_weights(manifest, blob)
    entries = json.loads(manifest)[0]["weights"]
    first, second = entries[0], entries[1]
    count = int(np.prod(first["shape"]))
    assert np.array_equal(weights[first["name"]].ravel(), np.frombuffer(blob, "<f4", count))
    codes = np.frombuffer(blob, np.uint8, 32, 4 * count)
    scale, least = second["quantization"]["scale"], second["quantization"]["min"]
    assert weights[second["name"]] == pytest.approx(codes * scale + least, abs=1e-6)
    for wrong in (blob[:-1], blob + b"x"):
        with pytest.raises(ValueError, match=r"the weights end|belong to no tensor"):
            resnet34.decode_weights(manifest, wrong)


def test_the_judges_network_is_its_definition_step_by_step() -> None:
    """Against the layers of face-api written out one operation at a time, scale and offset unfolded."""
    weights = resnet34.decode_weights(*tiny_weights(np.random.default_rng(1)))
    network = resnet34.ResNet34(weights).eval()
    t = {name: torch.tensor(value) for name, value in weights.items()}

    def convolution(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        filters = t[f"{name}/conv/filters"].permute(3, 2, 0, 1)
        y = torch.nn.functional.conv2d(x, filters, None, stride, 1 if stride == 1 else 0)
        y = y + t[f"{name}/conv/bias"].view(-1, 1, 1)
        return y * t[f"{name}/scale/weights"].view(-1, 1, 1) + t[f"{name}/scale/biases"].view(-1, 1, 1)

    crops = planes_of_rgb(CROP)
    with torch.inference_mode():
        grid = torch.nn.functional.affine_grid(network.placing, [1, 3, 150, 150], align_corners=False)
        chip = torch.nn.functional.grid_sample(crops, grid, padding_mode="border", align_corners=False)
        x = (chip - torch.tensor(resnet34.MEAN_RGB).view(1, 3, 1, 1)) / 255
        x = torch.nn.functional.max_pool2d(convolution(x, "conv32_down", 2).relu(), 3, 2)
        order = ["conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3"]
        order += ["conv128_down", "conv128_1", "conv128_2", "conv256_down", "conv256_1", "conv256_2"]
        for name in [*order, "conv256_down_out"]:
            stride = 2 if "down" in name else 1
            y = convolution(convolution(x, f"{name}/conv1", stride).relu(), f"{name}/conv2", 1)
            if stride == 2:
                x = torch.nn.functional.avg_pool2d(x, 2, 2)
                larger = torch.zeros(1, x.shape[1] if y.shape[1] < x.shape[1] else y.shape[1], *x.shape[2:])
                larger[:, : y.shape[1], : y.shape[2], : y.shape[3]] = y
                widened = torch.zeros_like(larger)
                widened[:, : x.shape[1]] = x
                x, y = widened, larger
            x = (x + y).relu()
        expected = x.mean(dim=(2, 3)) @ t["fc"]
        assert torch.allclose(network(crops), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def planes_of_rgb(crops: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(crops.copy()).permute(0, 3, 1, 2).float()


def test_the_judge_is_fetched_once_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, blob = tiny_weights(np.random.default_rng(2))
    fetched = []

    def part(file: str, content: bytes) -> Part:
        return Part(file, f"package/model/{file}", 0, len(content), hashlib.sha256(content).hexdigest())

    package = replace(resnet34.PACKAGE, parts=(part("w.bin", blob), part("m.json", manifest)))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for one, content in zip(package.parts, (blob, manifest), strict=True):
            entry = tarfile.TarInfo(one.member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(resnet34, "PACKAGE", package)
    monkeypatch.setattr(resnet34, "WEIGHTS", package.parts[0])
    monkeypatch.setattr(resnet34, "MANIFEST", package.parts[1])
    monkeypatch.setattr(resnet34, "find_registry", lambda: "https://registry.invalid/")
    monkeypatch.setattr(
        resnet34, "fetch_tarball", lambda p, registry, advance: fetched.append(p.name) or archive.getvalue()
    )
    for _ in range(2):
        resnet34.load(tmp_path)
    assert fetched == ["@vladmandic/face-api"]
    (tmp_path / "w.bin").write_bytes(blob[:-1] + b"\0")
    resnet34.load(tmp_path)
    assert len(fetched) == 2, "an altered file is fetched again, not used"
    assert (tmp_path / "w.bin").read_bytes() == blob


def test_a_judge_of_distances_scores_by_distance() -> None:
    judge = Judge(CoarseJudge(), threshold=0.5, comparisons=0, name="coarse", unit=False)
    a, b = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 2.0], [1.0, 0.5]], np.float32)
    assert judge.scores(a, b) == pytest.approx(np.array([[1 - 5 / 2, 1 - 0.25 / 2]]))


def test_replicas_give_the_gradient_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(5, 3)
    x, wanted = torch.randn(20, 5), torch.randn(20, 3)
    replicas = Replicas(network)
    for _ in range(2):
        loss = replicas.gradients(20, lambda n, part: (n(x[part]) - wanted[part]).square().mean())
        by_parts = network.weight.grad.clone()
        network.zero_grad()
        whole = (network(x) - wanted).square().mean()
        whole.backward()
        assert torch.allclose(by_parts, network.weight.grad, atol=1e-6)
        assert loss == pytest.approx(float(whole.detach()), abs=1e-5)
        with torch.no_grad():
            network.weight += 1  # the copies must follow


def test_a_network_may_start_where_that_of_another_protection_ended() -> None:
    crops = np.stack([crop.pixels for crop in people(2, 1).values()])
    first = LearnedAttack(Coded(tiny_profile()), Training(passes=8, batch=2, width=4))
    first.train(crops)
    second = LearnedAttack(Nothing("critical"), Training(passes=4, batch=2, width=4), start=first)
    ours, theirs = second.network.state_dict(), first.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    rows = runs.run_learned(
        [Coded(tiny_profile()), Nothing("critical")],
        runs.Victims(crops, None, ("a", "b")),
        None,
        crops,
        training=Training(passes=8, batch=2, width=4),
        further=4,
    )
    assert [row.get("started_from") for row in rows] == [None, None, "tiny"]
    assert [row.get("training_passes") for row in rows] == [None, 8, 4]


def test_ranges_are_measured_where_no_profile_gives_them() -> None:
    crops = np.stack([crop.pixels for crop in people(3, 1).values()])
    for transform in ("critical", "paper"):
        base = runs.measured_profile(transform, crops)
        even = runs.uniform(base, 2.0)
        assert even.profile.epsilon_mean_per_coefficient == pytest.approx(2.0)
        seen = to_frequency(FaceCrop(crops[0]), transform).values
        outside = (seen < base.low[:, None, None]) | (seen > base.high[:, None, None])
        assert outside[base.sent].mean() < 0.01
    assert runs.uniform(base, 2.0).name != runs.uniform(base, 4.0).name, "each has a checkpoint of its own"


def test_too_few_strangers_set_no_threshold(tmp_path: Path) -> None:
    images = people(20, 1)
    with pytest.raises(ValueError, match="more people"):
        Judge.open(write_judge(tmp_path / "judge.pt"), images, identities(images))


def test_a_flat_picture_keeps_the_mean_colour_and_nothing_else() -> None:
    flat = recovery.flat(CROP)
    assert np.ptp(flat[0], axis=(0, 1)).max() == 0
    assert np.abs(flat[0].mean(axis=(0, 1)) - CROP[0].mean(axis=(0, 1))).max() < 1.5


def test_one_of_each_person_comes_before_a_second_of_anybody() -> None:
    assert one_each({"a1": "a", "a2": "a", "b1": "b", "c1": "c"}, 4) == ["a1", "b1", "c1", "a2"]


# --- linkage ----------------------------------------------------------------------------------------------


def test_linkage_counts_captures_whose_owner_scores_highest() -> None:
    gallery = np.eye(4, dtype=np.float32)
    probes = gallery[[0, 1, 3, 2]]  # two people mistaken for each other
    figures = linkage.linkage_figures(probes, gallery)
    assert (figures["linked"], figures["chance"], figures["gallery_people"]) == (0.5, 0.25, 4)


def test_a_distilled_network_links_captures_to_the_people_it_never_saw(tmp_path: Path) -> None:
    images = people(170, 2)
    judge = Judge.open(write_judge(tmp_path / "judge.pt"), images, identities(images))
    victims = runs.choose_victims(images, identities(images), 10)
    crops = runs.crops_of(images, identities(images), without=victims.identities, limit=160)
    rows = runs.run_linkage(
        [tiny_profile()],
        judge,
        crops,
        victims,
        pairs=[160],
        distillation=linkage.Distillation(passes=480, batch=16),
    )
    assert rows[0]["linked"] == 1.0, "on pictures, the attacker's recogniser links everybody"
    assert rows[1]["pairs"] == 160
    assert rows[1]["linked"] > 2 * rows[1]["chance"]


# --- templates --------------------------------------------------------------------------------------------

KEYS = (bytes(range(32)), bytes(range(32, 64)))


def unit(rng: np.random.Generator, count: int, dimension: int = 64) -> np.ndarray:
    vectors = rng.normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_galleries_are_unlinkable_while_keys_are_secret_and_linked_once_they_are_known() -> None:
    rng = np.random.default_rng(0)
    first = unit(rng, 1000)
    second = first + 0.05 * unit(rng, 1000)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    figures = template.unlinkability_figures(first, second.astype(np.float32), keys=KEYS)
    assert figures["d_sys_key_known"] > 0.99
    assert figures["d_sys_key_secret"] < 0.15
    assert figures["d_sys_key_secret"] == pytest.approx(figures["d_sys_floor"], abs=0.1)


def test_whoever_knows_as_many_embeddings_as_dimensions_needs_no_key() -> None:
    rng = np.random.default_rng(0)
    known, others = unit(rng, 64), unit(rng, 20)
    solved = template.solved_rotation(known, template.protected(known, KEYS[0]))
    assert np.abs(template.protected(others, KEYS[0]) @ solved - others).max() < 1e-3
    few = template.solved_rotation(known[:8], template.protected(known[:8], KEYS[0]))
    assert np.abs((template.protected(others, KEYS[0]) @ few * others).sum(axis=1)).mean() < 0.6


def test_with_the_key_a_template_becomes_a_picture_the_system_knows_and_without_it_does_not(
    tmp_path: Path,
) -> None:
    from recognition.checkpoint import load_model
    from tests.tiny_model import make_tiny_model

    model = load_model(make_tiny_model(tmp_path / "tiny"))
    images = people(30, 2)
    victims = runs.choose_victims(images, identities(images), 4)
    public = runs.crops_of(images, identities(images), without=victims.identities, limit=20)
    figures, rows = runs.run_template(
        model, model.accepted[0].profile, victims, None, public, keys=KEYS, steps=40, known_pairs=()
    )
    known, secret = rows
    assert known["knowledge"] == "key known" and known["embedding_cosine"] > 0.99
    assert known["system_score"] > secret["system_score"] + 0.2
    assert secret["accepted_by_system"] == 0.0
    assert abs(secret["embedding_cosine"]) < 0.3
    assert {"d_sys_key_known", "d_sys_key_secret", "d_sys_floor"} <= set(figures)


def test_the_portraits_points_lie_on_the_face() -> None:
    assert PORTRAIT_POINTS.shape == (5, 2)
    left, right, nose, *_ = PORTRAIT_POINTS
    assert left[0] < nose[0] < right[0]


# --- time -------------------------------------------------------------------------------------------------


def test_an_attack_out_of_time_keeps_what_it_has_and_names_what_it_left_out(tmp_path: Path) -> None:
    victims = runs.Victims(CROP, None, ("eileen",))
    notebook = runs.Notebook(tmp_path / "rows.partial", minutes=0)
    rows = runs.run_linear(
        [Nothing("critical"), Coded(tiny_profile())], victims, None, steps=2, notebook=notebook
    )
    assert [row["protection"] for row in rows] == ["mean colour alone", "none (critical)"]
    assert notebook.left_out == ["tiny"]
    kept = [json.loads(line) for line in (tmp_path / "rows.partial").read_text().splitlines()]
    assert kept == rows, "each row was in the file as soon as it was made"
    notebook.close()
    assert not (tmp_path / "rows.partial").exists()


def test_an_attacker_of_more_pairs_goes_on_from_the_network_of_fewer() -> None:
    crops = np.stack([crop.pixels for crop in people(4, 1).values()])
    targets = unit(np.random.default_rng(0), 4, 8)
    plan = linkage.Distillation(passes=4, batch=4)
    few = linkage.Linker(tiny_profile(), 8, plan)
    few.distil(crops, targets)
    more = linkage.Linker(tiny_profile(), 8, plan, start=few)
    for mine, theirs in zip(more.network.parameters(), few.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    more.distil(crops, targets)
    assert (few.passes, more.passes) == (4, 8)


# --- a profile of its own for every capture ---------------------------------------------------------------


def test_captures_under_several_profiles_are_joined_by_what_each_of_them_says() -> None:
    first, second = (
        Coded(make_profile(bits=np.where(np.arange(189) % 3 != k, 3, 0), epsilon=200.0)) for k in (0, 1)
    )
    both = AnyOf((first, second))
    observation = both.observe(CROP, captures=9, seed=3)
    alone = first.observe(CROP, captures=9, seed=3)
    channel = np.arange(189)
    assert torch.isfinite(observation.variance).all(), (
        "nine captures: each of the two was drawn at least once"
    )
    assert (observation.variance[channel % 3 == 2] < 1.5 * alone.variance[channel % 3 == 2]).all()
    assert (observation.variance[channel % 3 == 1] > alone.variance[channel % 3 == 1]).all(), (
        "sent by one only"
    )
    truth = Operator("critical").forward(planes_from_crops(CROP))[0]
    clipped = truth.clamp(-100, 100)
    missed = (observation.values[0] - clipped)[channel % 3 == 2].square().mean()
    assert missed < (clipped[channel % 3 == 2]).square().mean(), "what is joined says something of the face"


def test_one_capture_under_several_profiles_lacks_what_its_own_leaves_out() -> None:
    each = tuple(Coded(make_profile(bits=np.where(np.arange(189) % 3 != k, 3, 0))) for k in range(3))
    seen = set()
    for seed in range(12):
        observation = AnyOf(each).observe(CROP, captures=1, seed=seed)
        missing = torch.isinf(observation.variance).all(dim=(1, 2)).numpy()
        assert (observation.values[0][torch.from_numpy(missing)] == 0).all()
        assert missing.sum() == 63 and len(set(np.flatnonzero(missing) % 3)) == 1
        seen.add(int(np.flatnonzero(missing)[0]) % 3)
    assert seen == {0, 1, 2}, "drawn anew for each"
    with pytest.raises(ValueError, match="one at a time"):
        AnyOf(each).observe(np.concatenate([CROP, CROP]), captures=1, seed=0)
    recovered = linear.attack(AnyOf(each), np.concatenate([CROP, CROP]), steps=2)
    assert recovered.shape == (2, 112, 112, 3)
