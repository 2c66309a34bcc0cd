"""GPT-2, 124 million parameters, as `transformers` builds it from its configuration."""

from transformers import GPT2Config, GPT2LMHeadModel


def net():
    return GPT2LMHeadModel(GPT2Config())
