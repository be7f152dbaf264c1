"""Small random models with a tokenizer made on the spot, saved as a user would find them on disk."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from fedrad.audit.decoder import bytes_reader
from fedrad.corpora import CHEXPERT
from fedrad.model.base import BaseModel, load_base
from fedrad.model.encoder import ReportClassifier
from fedrad.model.families import FAMILIES
from fedrad.model.public_head import HEAD_FILE, PublicHead
from fedrad.model.vocabulary import REPORT

WORDS = "no acute effusion pneumothorax heart size is normal lungs are clear left right pleural small large edema . ,"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# The words of an ordinary report come last: a tokenizer that lacks them is refused.
VOCABULARY = {
    word: i
    for i, word in enumerate(
        dict.fromkeys(
            [
                *(*SPECIAL, *WORDS.split(), *(f"##{c}" for c in "abcdefghij"), *"abcdefghij"),
                *sorted(set(re.findall(r"\w+", REPORT.lower()))),
            ]
        )
    )
}
TEXTS = [
    "No acute effusion.",
    "Heart size is normal, lungs are clear.",
    "Large left pleural effusion, small right pneumothorax, edema.",
    "",
    "edema",
]
ALL = tuple(name for name, family in FAMILIES.items() if not family.causal)


def config_of(family: str) -> PreTrainedConfig:
    """Three layers of width 32, with dropout, which must not be felt."""
    size = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 48, "pad_token_id": 0, "initializer_range": 0.2}
    layers = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    match family:
        case "bert":
            return BertConfig(**size, **layers)
        case "albert":
            return AlbertConfig(
                **size, **layers, embedding_size=16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
            )
        case "roberta":
            return RobertaConfig(**size, **layers)
        case "electra":
            return ElectraConfig(**size, **layers, embedding_size=16)
        case "distilbert":
            return DistilBertConfig(**size, dim=32, n_layers=3, n_heads=4, hidden_dim=40)
    raise AssertionError(family)


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
    backend.normalizer = Lowercase()
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def save(folder: Path, family: str, *, seed: int = 0, pooler: bool = True) -> str:
    """Writes a random model of the family and returns the folder's name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config_of(family))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    state = {name: tensor for name, tensor in model.state_dict().items() if pooler or not name.startswith("pooler.")}
    model.save_pretrained(folder, state_dict=state)
    tokenizer().save_pretrained(folder)
    return str(folder)


def save_decoder(folder: Path, family: str, **changes: object) -> str:
    """Writes a random decoder of the family, with three layers of width 32, and returns the folder's name."""
    reader = bytes_reader([REPORT, WORDS, *TEXTS], 420)
    sizes = {"vocab_size": len(reader), "max_position_embeddings": 80, "initializer_range": 0.2}
    layers = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "tie_word_embeddings": False}
    config = AutoConfig.for_model(family, **{**sizes, **layers, **heads, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                torch.nn.init.uniform_(parameter, 0.5, 2.0)
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    return str(folder)


def save_public(folder: Path) -> str:
    """Likewise with a public head that knows CheXpert's labels and nothing of them, and returns the folder's name."""
    width = 32
    head = PublicHead(
        labels={"chexpert": CHEXPERT},
        weight={"chexpert": torch.zeros(len(CHEXPERT), width)},
        bias={"chexpert": torch.zeros(len(CHEXPERT))},
        mean=torch.zeros(width),
        directions=torch.eye(width),
        spread=torch.ones(width),
    )
    name = save(folder, "bert")
    head.save(folder / HEAD_FILE)
    return name


def base_of(folder: Path, family: str, *, seed: int = 0, pooler: bool = True) -> BaseModel:
    return load_base(save(folder, family, seed=seed, pooler=pooler))


def randomise(classifier: ReportClassifier, seed: int = 1, scale: float = 0.3) -> ReportClassifier:
    """Moves every trainable tensor, so that none has a gradient of zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in classifier.adapter().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return classifier


def encode(base: BaseModel, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = base.tokenizer(texts, padding=True, truncation=True, max_length=40, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]
