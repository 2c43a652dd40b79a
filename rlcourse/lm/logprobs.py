"""Log-probabilities and entropies of given replies, with gradient."""

import torch
import torch.nn.functional as F


def token_logprobs(model, prompt_ids, reply_ids, *, prompt_mask=None, temperature=1.0):
    """log pi(reply_t | prompt, reply_<t) for each token of each reply, (B, T).

    prompt_ids (B, P), reply_ids (B, T); prompt_mask (B, P) is 0 at padding on the left.
    Column t belongs to reply token t. After a reply's end the numbers have no meaning: mask them.
    """
    distribution = _distribution(model, prompt_ids, reply_ids, prompt_mask, temperature)
    return distribution.gather(2, reply_ids[..., None]).squeeze(2)


def token_entropies(model, prompt_ids, reply_ids, *, prompt_mask=None, temperature=1.0):
    """Entropy, in nats, of the distribution from which each reply token is drawn, (B, T)."""
    distribution = _distribution(model, prompt_ids, reply_ids, prompt_mask, temperature)
    return -(distribution.exp() * distribution).sum(-1)


def token_logprobs_and_entropies(model, prompt_ids, reply_ids, *, prompt_mask=None, temperature=1.0):
    """Both of the above from one pass of the model: ((B, T), (B, T))."""
    distribution = _distribution(model, prompt_ids, reply_ids, prompt_mask, temperature)
    logprobs = distribution.gather(2, reply_ids[..., None]).squeeze(2)
    return logprobs, -(distribution.exp() * distribution).sum(-1)


def _distribution(model, prompt_ids, reply_ids, prompt_mask, temperature):
    """log-softmax over the vocabulary at each reply token, (B, T, V)."""
    inputs = torch.cat([prompt_ids, reply_ids], dim=1)[:, :-1]  # (B, P + T - 1)
    extra = {}
    if prompt_mask is not None:
        ones = torch.ones_like(reply_ids)
        attention = torch.cat([prompt_mask.long(), ones], dim=1)[:, :-1]
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        extra = {"attention_mask": attention, "position_ids": positions}
    logits = model(input_ids=inputs, use_cache=False, **extra).logits
    logits = logits[:, prompt_ids.shape[1] - 1 :]  # (B, T, V): position i predicts i + 1
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is coarse
    return F.log_softmax(logits / temperature, dim=-1)
