"""Request → model: adapters over transformers, the pocket model, and tiny random ones."""

from safety_reminder.models.embedding import embedding_weight, hidden_size, token_vectors
from safety_reminder.models.families import FAMILIES, Family
from safety_reminder.models.fingerprint import fingerprint, fingerprint_mismatch, sampled_digest, weights_digest
from safety_reminder.models.greedy import write_greedily
from safety_reminder.models.images import data_url, load_image, to_rgb
from safety_reminder.models.loading import DTYPES, load_checkpoint
from safety_reminder.models.messages import Messages
from safety_reminder.models.vlm import VLM, load_vlm, open_vlm

__all__ = [
    "DTYPES",
    "FAMILIES",
    "VLM",
    "Family",
    "Messages",
    "data_url",
    "embedding_weight",
    "fingerprint",
    "fingerprint_mismatch",
    "hidden_size",
    "load_checkpoint",
    "load_image",
    "load_vlm",
    "open_vlm",
    "sampled_digest",
    "to_rgb",
    "token_vectors",
    "weights_digest",
    "write_greedily",
]
