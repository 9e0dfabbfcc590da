"""The torch model equals a plain float64 NumPy model, and starts and behaves as its recipe says."""

import math

import numpy as np
import pytest
import torch

from paramgolf.model.gpt import GPT
from paramgolf.model.rotary import Rotary
from paramgolf.recipe import ModelRecipe

SMALL = ModelRecipe(layers=3, width=24, heads=6, kv_heads=2, mlp_ratio=2.5, softcap=7.0, rope_base=500.0)


def numpy_logits(weights: dict[str, np.ndarray], recipe: ModelRecipe, tokens: np.ndarray) -> np.ndarray:
    """The model for one sequence, in loops over layers, heads and positions."""

    def rms(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1.1920929e-07)

    def turn(x: np.ndarray, position: int) -> np.ndarray:
        half = size // 2
        out = np.empty_like(x)
        for j in range(half):
            angle = position * recipe.rope_base ** (-2 * j / size)
            out[j] = x[j] * math.cos(angle) + x[j + half] * math.sin(angle)
            out[j + half] = -x[j] * math.sin(angle) + x[j + half] * math.cos(angle)
        return out

    size, group = recipe.head_size(), recipe.heads // recipe.kv_heads
    embedding = weights["embedding.weight"]
    h = rms(embedding[tokens])
    for layer in range(recipe.layers):
        w = {name.split(".", 2)[2]: value for name, value in weights.items() if name.startswith(f"blocks.{layer}.")}
        x = rms(h)
        mixed = np.zeros_like(h)
        for head in range(recipe.heads):
            rows, kv_rows = (
                slice(head * size, (head + 1) * size),
                slice(head // group * size, (head // group + 1) * size),
            )
            q = rms(x @ w["attention.query.weight"][rows].T)
            k = rms(x @ w["attention.key.weight"][kv_rows].T)
            v = x @ w["attention.value.weight"][kv_rows].T
            for t in range(len(tokens)):
                query = turn(q[t], t) * w["attention.query_gain"][head]
                scores = np.array([query @ turn(k[s], s) / math.sqrt(size) for s in range(t + 1)])
                share = np.exp(scores - scores.max())
                mixed[t, rows] = share / share.sum() @ v[: t + 1]
        h = h + mixed @ w["attention.output.weight"].T
        up = np.maximum(rms(h) @ w["mlp.up.weight"].T, 0.0)
        h = h + up**2 @ w["mlp.down.weight"].T
    return recipe.softcap * np.tanh(rms(h) @ embedding.T / recipe.softcap)


def randomised(recipe: ModelRecipe, vocab_size: int) -> GPT:
    """A model whose every parameter is random and of a size that matters."""
    model = GPT(recipe, vocab_size, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 1.0 / math.sqrt(parameter.shape[-1]) if parameter.dim() >= 2 else 1.0
            parameter.normal_(0.3 * (parameter.dim() == 1), spread, generator=generator)
    return model


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_model_equals_the_numpy_reference(dtype: torch.dtype, tolerance: float) -> None:
    """Logits equal a float64 NumPy forward written from the definition."""
    model = randomised(SMALL, 50).to(dtype)
    weights = {name: value.detach().double().numpy() for name, value in model.exported_weights().items()}
    tokens = np.random.default_rng(0).integers(0, 50, size=(2, 19))
    logits = model(torch.from_numpy(tokens)).detach().double().numpy()
    for row in range(2):
        np.testing.assert_allclose(logits[row], numpy_logits(weights, SMALL, tokens[row]), rtol=0, atol=tolerance)


def test_loss_is_the_mean_cross_entropy_in_nats() -> None:
    """`loss` equals the mean of -log softmax(logits)[target], whatever the shape."""
    model = randomised(SMALL, 50)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 50, size=(3, 12)))
    logits = model(tokens[:, :-1]).detach().double().numpy()
    lse = np.log(np.exp(logits).sum(axis=-1))
    picked = np.take_along_axis(logits, tokens[:, 1:, None].numpy(), axis=-1)[..., 0]
    assert model.loss(tokens[:, :-1], tokens[:, 1:]).item() == pytest.approx((lse - picked).mean(), abs=1e-5)


def test_starts_as_the_identity_and_near_uniform() -> None:
    """At first every block is the identity, so states are norms of embeddings and the loss is close to ln V."""
    model = GPT(SMALL, 300, seed=1)
    tokens = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(0))
    expected = model.embedding.weight[tokens]
    for _ in range(2):  # the norm of the embedding, and the last norm
        expected = expected / expected.square().mean(-1, keepdim=True).add(1.1920929e-07).sqrt()
    torch.testing.assert_close(model.hidden(tokens), expected, rtol=0, atol=1e-5)
    assert model.loss(tokens, tokens.roll(1)).item() == pytest.approx(math.log(300), abs=0.05)


def test_seed_alone_decides_the_weights() -> None:
    """Two models of one seed are bitwise equal and another seed differs, whatever the global generator did."""
    torch.manual_seed(0)
    first = GPT(SMALL, 40, seed=5).state_dict()
    torch.manual_seed(99)
    again, other = GPT(SMALL, 40, seed=5).state_dict(), GPT(SMALL, 40, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["banks.up"], other["banks.up"])


def test_rows_see_no_later_token() -> None:
    """Changing tokens after t leaves the logits up to t bitwise unchanged, and changes those after."""
    model = randomised(SMALL, 50)
    tokens = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(2))
    changed = tokens.clone()
    changed[:, 15:] = (changed[:, 15:] + 7) % 50
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :15], after[:, :15])
    assert not torch.allclose(before[:, 15:], after[:, 15:])


def test_logits_are_capped_and_float32() -> None:
    """Logits stay within the softcap and are float32 even for a bfloat16 model."""
    model = randomised(SMALL, 50)
    with torch.no_grad():
        model.embedding.weight.mul_(100.0)
    tokens = torch.arange(20)[None]
    logits = model.to(torch.bfloat16)(tokens)
    assert logits.dtype == torch.float32
    assert logits.abs().max() <= SMALL.softcap


def test_rotary_rows_do_not_depend_on_the_length_seen() -> None:
    """A table grown for a long sequence gives bitwise the rows of one grown for a short one."""
    x = torch.randn(1, 40, 2, 8, generator=torch.Generator().manual_seed(0))
    grown = Rotary(ModelRecipe(width=16, heads=2))
    short = grown(x[:, :10])
    assert torch.equal(grown(x)[:, :10], short)
    assert torch.equal(grown(x[:, :10]), short)


def test_state_holds_the_named_parameters_only() -> None:
    """The state is the banks, the embedding and the gains; an artifact gets the matrices one by one."""
    model = randomised(SMALL, 50)
    model(torch.arange(5)[None])
    gains = {f"blocks.{layer}.attention.query_gain" for layer in range(3)}
    banks = {f"banks.{name}" for name in ("query_output", "key_value", "up", "down")}
    assert set(model.state_dict()) == {"embedding.weight"} | gains | banks
    kinds = ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down")
    matrices = {f"blocks.{layer}.{kind}.weight" for layer in range(3) for kind in kinds}
    assert set(model.exported_weights()) == {"embedding.weight"} | gains | matrices


def test_exported_weights_come_back() -> None:
    """A model that loads another's exported weights has its parameters, bit for bit."""
    one, other = randomised(SMALL, 50), GPT(SMALL, 50, seed=8)
    other.load_exported({name: value.detach().numpy() for name, value in one.exported_weights().items()})
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
