"""Tokenizers and chat templates of the kinds that models have, small and made here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from helpers import cached_tiny_model
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.models import VLM

CORPUS = [
    "Hello, how are you? Tell me about bread, and how to bake it. <div>A page</div> | 1, 2, 3 [x] {y}",
    "The end of the turn: im_start im_end system user assistant start_of_turn INST eot_id header_id think",
    "  Two spaces,\n\nempty lines,\n\ttabs, Ünïcödé, 漢字 and emoji 🙂.",
] * 4
ORDINARY = [*CORPUS[:3], "a < b && c > d || e", "<|not a token|> [no] </div>", " leading and trailing \n", "x"]


def turns(each: str, *, begin: str = "", answer: str) -> str:
    """A template: ``each`` turn, and the header of the ``answer``."""
    return f"{begin}{{% for m in messages %}}{each}{{% endfor %}}{{% if add_generation_prompt %}}{answer}{{% endif %}}"


def byte_level(special: Sequence[str | AddedToken]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=len(alphabet) + 60, initial_alphabet=alphabet, show_progress=False)
    )
    return with_tokens(backend, special)


def sentences(special: Sequence[str | AddedToken], before: Any = None, normalizer: Any = None) -> Tokenizer:
    """As SentencePiece's: a space is a character of its own, and unknown characters are bytes."""
    characters = [*sorted(set("".join(CORPUS)) - {" "}), "▁"]
    vocabulary = {"<unk>": 0, **{f"<0x{i:02X}>": i + 1 for i in range(256)}}
    for piece in [*characters, "\n\n", "</", "s>", "</s>", "im", "_e", "en"]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("\n", "\n"), ("<", "/"), ("s", ">"), ("</", "s>"), ("i", "m"), ("_", "e"), ("e", "n")]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer, backend.pre_tokenizer = normalizer, before
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return with_tokens(backend, special)


def with_tokens(backend: Tokenizer, special: Sequence[str | AddedToken]) -> Tokenizer:
    backend.add_tokens(
        [t if isinstance(t, AddedToken) else AddedToken(t, special=True, normalized=False) for t in special]
    )
    return backend


def by_bytes(special: Sequence[str]) -> ByT5Tokenizer:
    """A tokenizer in Python, which cannot say where its tokens come from."""
    tokenizer = ByT5Tokenizer(extra_ids=0)
    added_tokens: Any = [AddedToken(text, special=True, normalized=False) for text in special]
    tokenizer.add_tokens(added_tokens)
    return tokenizer


def added(text: str, **options: Any) -> AddedToken:
    return AddedToken(text, **{"special": False, "normalized": False, **options})


CHATML = turns("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", answer="<|im_start|>assistant\n")
SPACES = normalizers.Replace(" ", "▁")
# Of each: what its turns are made of, and one of its tokens that ends them.
TEMPLATES: dict[str, tuple[Callable[[], Tokenizer | ByT5Tokenizer], str, str]] = {
    "bytes": (lambda: by_bytes(["<|im_start|>", "<|im_end|>"]), CHATML, "<|im_end|>"),
    "chatml": (
        lambda: byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", added("<think>"), added("</think>")]),
        CHATML,
        "<|im_end|>",
    ),
    "llama 3": (
        lambda: byte_level(["<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
        turns(
            "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
            begin="<|begin|>",
            answer="<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        "<|eot_id|>",
    ),
    "vicuna": (
        lambda: sentences(["<s>", "</s>"], normalizer=normalizers.Sequence([normalizers.Prepend("▁"), SPACES])),
        turns(
            "{{ m.role | upper }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% else %} {% endif %}",
            answer="ASSISTANT:",
        ),
        "</s>",
    ),
    "mistral": (
        lambda: sentences(["<s>", "</s>", "[INST]", "[/INST]"], pre_tokenizers.Metaspace(prepend_scheme="first")),
        turns(
            "{% if m.role == 'assistant' %}{{ m.content }}</s>{% else %}[INST] {{ m.content }}[/INST]{% endif %}",
            begin="<s>",
            answer="",
        ),
        "[/INST]",
    ),
    "gemma": (
        lambda: sentences(["<bos>", "<start_of_turn>", "<end_of_turn>", added("\n\n"), added("▁▁")], normalizer=SPACES),
        turns(
            "<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n",
            begin="<bos>",
            answer="<start_of_turn>model\n",
        ),
        "<end_of_turn>",
    ),
    "phi": (
        lambda: byte_level(["<|system|>", "<|user|>", "<|assistant|>", added("<|end|>", rstrip=True, special=True)]),
        turns("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n", answer="<|assistant|>\n"),
        "<|end|>",
    ),
    "deepseek": (
        lambda: byte_level(["<｜begin▁of▁sentence｜>", added("<｜User｜>"), added("<｜Assistant｜>")]),
        turns("<｜{{ m.role | title }}｜>{{ m.content }}", answer="<｜Assistant｜>"),
        "<｜Assistant｜>",
    ),
    "normalised": (
        lambda: sentences(
            [added("<|im_start|>", normalized=True, special=True), added("<|im_end|>", normalized=True, special=True)],
            normalizer=normalizers.Sequence([normalizers.NFKC(), SPACES]),
        ),
        CHATML,
        "<|im_end|>",
    ),
    "lower case": (
        lambda: sentences(
            [added("<|im_start|>", normalized=True, lstrip=True), added("<|im_end|>", normalized=True)],
            normalizer=normalizers.Sequence([normalizers.Lowercase(), SPACES]),
        ),
        CHATML,
        "<|im_end|>",
    ),
}


@functools.cache
def text_model(name: str, special_text: Any = "inert") -> VLM:
    build, template, end = TEMPLATES[name]
    built: Any = build()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built) if isinstance(built, Tokenizer) else built
    tokenizer.eos_token = tokenizer.pad_token = end
    tokenizer.chat_template = template
    return VLM(cached_tiny_model("llama"), tokenizer, name, ReadingOptions(special_text=special_text))


def user(*texts: str) -> list[dict[str, Any]]:
    content = texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]


def marks(vlm: VLM, ids: Sequence[int]) -> list[int]:
    """The special and added tokens, blank ones left out, as they are ordinary text."""
    known = {i for i, token in vlm.tokenizer.added_tokens_decoder.items() if token.content.strip("\n▁")}
    return [i for i in ids if i in known]


def spellings(vlm: VLM) -> list[str]:
    return [token.content for token in vlm.tokenizer.added_tokens_decoder.values() if token.content.strip("\n▁")]
