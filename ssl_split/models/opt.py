"""OPT (Zhang et al., arXiv 2205.01068) as a classifier of sentences, through `transformers`.

The embeddings are cut 1, decoder block i is cut i + 1, as MU-SplitFed counts (arXiv 2510.21155: L_c blocks on the client). The last part,
which stays with the head, is the final norm and the choice of the last token: the only one that has seen the whole sentence
(`OPTForSequenceClassification` chooses the same).

Sentences are padded on the right, and the rows of padding are zero from the embeddings on. So nothing but smashed data has to cross the
wire: a row of zeros is padding. Attention is causal, hence no token sees the padding behind it.

Deviations: no dropout, for equal weights must give equal losses (zeroth order compares them, and a resumed run is bitwise the same).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssl_split.config import Config, TextOptions
from ssl_split.fields import extra
from ssl_split.models.units import Unit

if TYPE_CHECKING:
    from transformers import OPTConfig

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Files that hold the weights of a pretrained folder."""


def present(x: Tensor) -> Tensor:
    """Which rows of hidden states `(B, L, d)` are tokens, bool `(B, L, 1)`: padding is zero."""
    return (x != 0).any(-1, keepdim=True)


class Embedding(nn.Module):
    """Token and position, projected to the width of the blocks where the two differ; zero at padding."""

    def __init__(self, configuration: OPTConfig) -> None:
        super().__init__()
        opt = extra("transformers.models.opt.modeling_opt", "text")
        narrow, wide = configuration.word_embed_proj_dim, configuration.hidden_size
        self.padding, self.std = configuration.pad_token_id, configuration.init_std
        self.tokens = nn.Embedding(configuration.vocab_size, narrow, self.padding)
        self.positions = opt.OPTLearnedPositionalEmbedding(configuration.max_position_embeddings, wide)
        self.project = nn.Linear(narrow, wide, bias=False) if narrow != wide else None

    def initialise(self, generator: torch.Generator) -> None:
        """Normal, deviation `init_std`; zero for the padding token."""
        _draw(self, generator, self.std)

    def forward(self, x: Tensor) -> Tensor:
        """Token ids `(B, L)`, of any dtype that holds them exactly -> `(B, L, d)`."""
        ids = x.long()
        mask = ids.ne(self.padding)
        tokens = self.tokens(ids)
        if self.project is not None:
            tokens = self.project(tokens)
        out: Tensor = (tokens + self.positions(mask.long())) * mask[..., None]
        return out


class Block(nn.Module):
    """A decoder block of `transformers`."""

    def __init__(self, configuration: OPTConfig, number: int) -> None:
        super().__init__()
        self.layer = extra("transformers.models.opt.modeling_opt", "text").OPTDecoderLayer(configuration, layer_idx=number)
        self.std = configuration.init_std

    def initialise(self, generator: torch.Generator) -> None:
        """Normal, deviation `init_std`; biases 0; normalisation 1 and 0."""
        _draw(self, generator, self.std)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, d)` -> same; zero at padding again."""
        length = x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        blocked = torch.zeros(length, length, dtype=x.dtype, device=x.device).masked_fill(~causal, torch.finfo(x.dtype).min)
        made = self.layer(x, attention_mask=blocked[None, None])
        out: Tensor = (made[0] if isinstance(made, tuple) else made) * present(x)  # versions before 5 return a tuple
        return out


class Last(nn.Module):
    """Final norm and projection, and of each sentence the last token."""

    def __init__(self, configuration: OPTConfig) -> None:
        super().__init__()
        narrow, wide = configuration.word_embed_proj_dim, configuration.hidden_size
        has_norm = configuration.do_layer_norm_before and not configuration._remove_final_layer_norm
        self.norm = nn.LayerNorm(wide, elementwise_affine=configuration.layer_norm_elementwise_affine) if has_norm else None
        self.project = nn.Linear(wide, narrow, bias=False) if narrow != wide else None
        self.std = configuration.init_std

    def initialise(self, generator: torch.Generator) -> None:
        """As the blocks."""
        _draw(self, generator, self.std)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, d)` -> `(B, features)`."""
        last = present(x)[..., 0].long().cumsum(1).argmax(1)  # the first place with the full count
        chosen = x[torch.arange(len(x), device=x.device), last]
        if self.norm is not None:
            chosen = self.norm(chosen)
        return chosen if self.project is None else self.project(chosen)


def _draw(module: nn.Module, generator: torch.Generator, std: float) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std, generator=generator)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()
        elif isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
        if isinstance(part, nn.Linear | nn.LayerNorm) and part.bias is not None:
            nn.init.zeros_(part.bias)


def opt_units(configuration: OPTConfig) -> list[Unit]:
    """Embeddings, blocks and the last part, on the default device; random weights are drawn by `initialise` where that is `meta`."""
    units = [Unit("embeddings", Embedding(configuration), 1)]
    units += [Unit(f"block {i + 1}", Block(configuration, i), i + 2) for i in range(configuration.num_hidden_layers)]
    return [*units, Unit("final norm, last token", Last(configuration), None)]


def opt(config: Config, tokens: int) -> list[Unit]:
    """The network of `config.text` for sentences of so many tokens.

    Raises:
        ValueError: the pretrained folder holds no OPT configuration, or one for shorter sentences.
    """
    configuration = read_configuration(config.text)
    if tokens > configuration.max_position_embeddings:
        raise ValueError(f"text.tokens = {tokens} is more than the {configuration.max_position_embeddings} positions of this network")
    return opt_units(configuration)


def read_configuration(options: TextOptions) -> OPTConfig:
    """OPT's configuration: the pretrained folder's, else of the sizes given."""
    made: OPTConfig
    transformers = extra("transformers", "text")
    if options.pretrained is None:
        made = transformers.OPTConfig(
            vocab_size=options.vocabulary, hidden_size=options.hidden, word_embed_proj_dim=options.hidden, ffn_dim=options.feed_forward,
            num_hidden_layers=options.layers, num_attention_heads=options.heads, max_position_embeddings=max(options.tokens, 128))
    else:
        folder = _folder(options)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"text.pretrained: there is no config.json in {folder}")
        try:
            made = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # whatever the file may hold
            raise ValueError(f"{folder / 'config.json'} cannot be read: {str(error).strip().splitlines()[0]}") from error
        if made.model_type != "opt":
            raise ValueError(f"text.pretrained: {folder} holds a network of type {made.model_type}, not opt")
    made.dropout = made.attention_dropout = made.layerdrop = 0.0
    # written-out attention: second derivatives and stacked clients work, and every saved tensor is counted
    made._attn_implementation = "eager"
    return made


def load_weights(units: nn.ModuleDict, options: TextOptions) -> None:
    """Overwrite the weights of the units with those of the pretrained folder, if it has any.

    Raises:
        ValueError: they are damaged, or do not fit.
    """
    if options.pretrained is None or not any(found for pattern in WEIGHTS for found in _folder(options).glob(pattern)):
        return
    folder = _folder(options)
    try:
        model, said = extra("transformers", "text").OPTModel.from_pretrained(
            str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # whatever the files may hold
        raise ValueError(f"the weights in {folder} cannot be read: {str(error).strip().splitlines()[0]}") from error
    if said["missing_keys"] or said.get("mismatched_keys"):
        missing = sorted(said["missing_keys"]) or [key for key, *_ in said["mismatched_keys"]]
        raise ValueError(f"the weights in {folder} do not fit its config.json: {missing[0]} is missing or of another shape")
    decoder = model.decoder
    parts: list[Any] = list(units.values())
    first, *blocks, last = parts
    _copy(decoder.embed_tokens, first.tokens)
    _copy(decoder.embed_positions, first.positions)
    _copy(decoder.project_in, first.project)
    for layer, block in zip(decoder.layers, blocks, strict=True):
        _copy(layer, block.layer)
    _copy(decoder.final_layer_norm, last.norm)
    _copy(decoder.project_out, last.project)


def _copy(source: nn.Module | None, target: nn.Module | None) -> None:
    if source is not None and target is not None:
        target.load_state_dict(source.state_dict())


def _folder(options: TextOptions) -> Path:
    assert options.pretrained is not None
    return Path(options.pretrained).expanduser()
