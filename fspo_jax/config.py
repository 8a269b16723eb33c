# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The config of a recipe: every key, its default, its unit; and what combinations are impossible.

An experiment (`experiments/*.py`) starts from `default()` and changes what it is about. Configs
are read here, at the edge, and nowhere else: the rest of the code sees small frozen dataclasses.
"""

from __future__ import annotations

import dataclasses

import ml_collections

from fspo_jax.episodes import chat
from fspo_jax.episodes.batching import Packing
from fspo_jax.episodes.pretraining import Mixture, Phase
from fspo_jax.episodes.sampling import Curriculum
from fspo_jax.episodes.templates import HEADINGS, MARKERS, Formatter, Layout
from fspo_jax.episodes.tokenizers import Tokenizer
from fspo_jax.models.architecture import HOW, TransformerConfig
from fspo_jax.models.lora import LoraConfig
from fspo_jax.synthesis import keys as synthesis_keys
from fspo_jax.synthesis.quality import Gate
from fspo_jax.synthesis.settings import Model, Settings
from fspo_jax.synthesis.world_llm import Flaws
from fspo_jax.training.loop import LoopConfig
from fspo_jax.training.optimizer import OptimizerConfig
from fspo_jax.training.step import Objective

DATA_NAMES = ("reviews", "synthetic", "user_set", "jsonl", "alpaca_styles", "ukp", "pretraining")
STAGES = ("synthesis", "base", "tokenizer", "sft", "preference", "evaluate")
TEXT_TEMPLATES = {"markers": MARKERS, "headings": HEADINGS}
TEMPLATES = (*TEXT_TEMPLATES, "chat")


def default() -> ml_collections.ConfigDict:
  """Every key of a recipe with its default."""
  c = ml_collections.ConfigDict()
  c.seed = 0  # of everything: parameters, episodes, splits, samples
  # What is run, in the order of STAGES. A model comes from the stage 'base', or is made by
  # 'tokenizer' and 'sft'; what 'sft' trains, else the base, is the reference of 'preference'.
  c.stages = ("tokenizer", "sft", "preference", "evaluate")
  c.base = ""  # of the stage 'base': 'published', 'scratch' (made here, hours), or a folder
  c.world_seed = 0  # of worlds: which users and topics are unseen; a base was kept from the same

  c.data = ml_collections.ConfigDict()
  c.data.name = "reviews"  # one of DATA_NAMES
  c.data.path = ""  # file (jsonl) or folder of the data; none for what is made here
  c.data.bad_lines = "refuse"  # jsonl: broken lines: 'refuse' to start, or 'set_aside'
  c.data.world = ""  # user_set: the world behind it, which judges and knows its topics; or ''
  c.data.below_gate = "refuse"  # a set whose quality card is below the gate; or 'accept' it
  c.data.unseen_users = 0.1  # jsonl: fraction of users kept for evaluation
  c.data.unseen_prompts = 0.1  # jsonl, alpaca_styles: fraction of prompts never trained on
  c.data.min_preferences = 20  # ukp: users with fewer are set aside
  c.data.workers = "test"  # ukp: the unseen workers; 'val' to choose settings with
  c.data.max_words = 120  # ukp, alpaca_styles: longest response, in words; longer: set aside
  c.data.small_users = "refuse"  # users with too few preferences: 'refuse' to start, or 'set_aside'
  c.data.users = 400  # alpaca_styles: simulated users to train on
  c.data.evaluation_users = 100  # alpaca_styles: simulated users to evaluate on
  c.data.preferences_per_user = 40  # alpaca_styles

  c.world = ml_collections.ConfigDict()  # the reviews world alone
  c.world.candidates = 4  # a pair is the best and worst of so many random responses
  c.world.label_noise = 0.05  # fraction of shots whose label is flipped
  c.world.min_differences = 2  # attributes in which the two responses of a pair differ
  c.world.unseen_users = 500  # users kept for evaluation
  c.world.phrasings = 4  # wordings of each attribute's value, of 8
  c.world.fillers = 24  # sentences that make a response long, of 282

  c.elix_variant = "hard"  # expertise by subject; or 'easy': one of five levels

  c.synthesis = synthesis_keys.default()

  c.pretraining = ml_collections.ConfigDict()
  # First the language, then instructions and facts. Of each phase: its first document; the weights
  # of answers to questions under a description of who asks, the few-shot format with random labels,
  # such shots and what the responses of each are like, pages by one author who is then described,
  # what anybody knows of a domain, and what people would like; those of reviews, elix and roleplay;
  # whether answers are the best of all, or of what the question offers.
  c.pretraining.phases = (
    (0, (0.45, 0.08, 0.25, 0.17, 0.05, 0.0), (1, 1, 1), False),
    (16_800, (0.42, 0.06, 0.2, 0.14, 0.18, 0.0), (1, 1, 1), False),
    (21_000, (0.45, 0.05, 0.1, 0.1, 0.16, 0.14), (4, 5, 8), True),
  )
  c.pretraining.pairs = (13, 8, 9)  # pairs of a document of reviews, elix and roleplay
  c.pretraining.answers = (19, 12, 13)  # answers of one
  c.pretraining.wishes = 24  # wishes of one
  c.pretraining.rationality = 4.0  # authors write a response with odds exp(this x reward)

  c.tokenizer = ml_collections.ConfigDict()
  c.tokenizer.path = ""  # a model file, or a folder with tokenizer.json; '' trains one
  c.tokenizer.vocab_size = 1216  # pieces, of which 256 are bytes and 8 special
  c.tokenizer.model_type = "bpe"  # or 'unigram'
  c.tokenizer.split_by_whitespace = False  # False: frequent phrases become one piece
  c.tokenizer.corpus_lines = 12_000  # texts it is trained on
  # How episodes are written: 'markers' of the tokenizers made here, 'headings' as in the paper's
  # code, or 'chat': the tokenizer's own chat template (see episodes/chat.py).
  c.template = "markers"
  c.chat = ml_collections.ConfigDict()  # of the template 'chat'
  c.chat.system = ""  # the system message; '' for what the template writes without any
  c.chat.date = ""  # what a template is told today is, like '2024-07-26'; '' refuses if it asks

  c.model = ml_collections.ConfigDict()
  c.model.vocab_size = 0  # token ids; 0: those of the tokenizer
  c.model.width = 96
  c.model.layers = 3
  c.model.heads = 3
  c.model.kv_heads = 3
  c.model.head_dim = 32
  c.model.mlp = 256  # hidden width of the gated MLP
  c.model.roles = 5  # learned segment-role embeddings; 0 for a plain Llama
  c.model.tied = True  # the head is the embedding table
  c.model.rope_theta = 500_000.0
  c.model.norm_eps = 1e-5
  # Tree attention: 'xla' anywhere; 'pallas_tpu', 'pallas_gpu': kernels for TPUs and for GPUs that
  # skip blocks that nobody sees, compiled ahead of time and tested interpreted, but not run on
  # either so far; 'pallas_interpret', 'pallas_gpu_interpret': the same anywhere, slowly, for tests.
  c.model.attention = "xla"
  # Queries per block. Kernels: keys too, 'pallas_tpu' a multiple of 128, 'pallas_gpu' a power of
  # two, of which 64 is the most with heads of 65 to 128 in bfloat16.
  c.model.attention_block = 128
  c.model.remat = "none"  # 'none', 'dots' or 'full': what the backward pass recomputes
  c.model.dtype = "float32"  # of the computation
  c.model.param_dtype = "float32"
  # What Llama's relatives do otherwise; `models/architecture.py` says who does what.
  c.model.activation = "silu"  # of the MLP's gate; or 'gelu'
  c.model.qkv_bias = False
  c.model.qk_norm = False
  c.model.post_norms = False  # norms of what a block adds
  c.model.zero_centered_norms = False  # norms scale by 1 + their parameter
  c.model.scaled_embeddings = False  # by sqrt(width)
  c.model.query_scalar = 0.0  # scores are divided by its square root; 0 for head_dim
  c.model.attention_softcap = 0.0  # bound of the scores; 0 for none
  c.model.logit_softcap = 0.0  # bound of the logits; 0 for none
  c.model.windows = ()  # tokens that each layer sees, over and over again; 0 for all
  c.model.rope_scaling = "none"  # or 'linear', 'llama3'
  c.model.rope_factor = 1.0  # what scaling divides frequencies by
  c.model.rope_low_freq_factor = 1.0  # 'llama3' alone
  c.model.rope_high_freq_factor = 4.0  # 'llama3' alone
  c.model.rope_original_length = 8192  # 'llama3' alone: tokens
  c.model.rope_local_theta = 0.0  # of layers with a window; 0 for that of the others
  c.vocab_chunk = 2048  # vocabulary entries per chunk of the projection

  c.mesh = ml_collections.ConfigDict()  # devices along each axis; one may be -1: all that remain
  c.mesh.data = -1  # rows
  c.mesh.fsdp = 1  # rows, and parameters
  c.mesh.tensor = 1  # heads, hidden units, vocabulary
  c.mesh.context = 1  # the tokens of a row
  c.mesh.dcn_data = 1  # rows, over slices that only a network joins

  c.sft = _stage(steps=300)
  c.sft.flip_shots = 0.5  # 0.5: the frozen reference knows the format but not to trust the labels
  c.sft.queries = 6
  c.sft.layout.query_shots = (8,)
  c.sft.layout.shot_pairs = True
  c.sft.layout.rejected = False
  c.sft.layout.description_shots = (0,)
  c.sft.layout.description_queries = (0,)
  c.sft.loss.preference_weight = 0.0
  c.sft.optimizer.decay_fraction = 0.2
  c.sft.optimizer.learning_rate = 6e-3
  c.sft.optimizer.adam_learning_rate = 3e-3
  c.sft.curriculum.start = 0.6

  c.preference = _stage(steps=2000)
  c.preference.flip_shots = -1.0  # -1: the data's own label noise
  c.preference.layout.shot_pairs = True
  c.preference.layout.query_shots = (8,)
  c.preference.layout.description_shots = (2, 4, 6, 8)
  c.preference.layout.description_queries = (8,)
  c.preference.curriculum.start = 0.1
  c.preference.curriculum.end = 0.5
  # The reference's log-probabilities, computed before the training; see training/reference_cache.py
  c.preference.reference_cache = ml_collections.ConfigDict()
  c.preference.reference_cache.use = "auto"  # where rows come again or runs share them; 'on', 'off'
  c.preference.reference_cache.directory = ""  # that runs share; '' for one in the run's own

  # RAT: before the preference stage, its first model writes descriptions of the training users, of
  # which the one that is closer to the gold one is preferred; see episodes/on_policy.py.
  c.on_policy = ml_collections.ConfigDict()
  c.on_policy.use = False
  c.on_policy.episodes = 1500  # that are described; the stage trains on these, round and round
  c.on_policy.shots = (2, 4, 8)  # numbers of shots that descriptions are written after
  c.on_policy.samples = 4  # of an episode, of which two are compared and one is kept
  c.on_policy.temperature = 1.0
  c.on_policy.max_tokens = 32  # of a description
  c.on_policy.closeness = "traits"  # the tastes named, as the world reads them, or 'characters'
  c.on_policy.gap = 0.0  # of closeness: pairs that are no further apart are skipped

  c.user_finetuning = ml_collections.ConfigDict()  # of the method 'user_lora'
  c.user_finetuning.steps = 20  # of Adam, each on all of the user's shots
  c.user_finetuning.learning_rate = 5e-3
  c.user_finetuning.objective = "dpo"  # against the base, or 'sft' on the chosen responses
  c.user_finetuning.beta = 0.5  # of DPO; 0 for SFT
  c.user_finetuning.lora_rank = 8  # of the adapters; 0 to train all parameters
  c.user_finetuning.lora_alpha = 16.0  # updates are scaled by alpha / rank
  c.user_finetuning.lora_projections = ("q", "k", "v", "o", "gate", "up", "down")
  c.user_finetuning.ks = (0, 1, 2, 4, 8)  # numbers of shots that margins are measured after
  c.user_finetuning.episodes = 200  # that margins are measured on
  c.user_finetuning.users_at_once = 8  # trained together; changes the speed alone

  c.vpl = ml_collections.ConfigDict()  # of the method 'vpl'; see models/vpl.py
  c.vpl.use = False  # True: the preference stage trains an encoder of users beside the policy
  c.vpl.latent = 32  # dimensions of a user's latent
  c.vpl.hidden = 128  # width of the encoder
  c.vpl.kl_weight = 0.01  # of the latent's KL, against the mean loss of a pair
  c.vpl.kl_anneal = 0.5  # fraction of the run over which it grows from 0

  c.evaluation = ml_collections.ConfigDict()
  # The rows of the report: some of `evaluation/methods.py`, the base first.
  c.evaluation.methods = ("base", "fewshot_prompted", "fspo", "fspo_rat", "fspo_gold")
  c.evaluation.shots = 8  # accuracy is measured after 0 .. shots shots
  c.evaluation.episodes = 1000  # per split, for preference accuracy by k
  c.evaluation.known_prompts = False  # a split of unseen users on prompts trained on; sets only
  c.evaluation.rows = 8  # rows per batch
  c.evaluation.max_row_tokens = 8192  # longer episodes lose whole shots, oldest first, counted
  c.evaluation.rat_episodes = 250  # of them, per split, for descriptions, written and gold
  c.evaluation.win_rate_users = 200  # of them, per split; worlds only
  c.evaluation.win_rate_prompts = 2  # prompts answered for each of these users
  c.evaluation.sample_users = 3  # users whose responses the report shows side by side
  c.evaluation.temperatures = (0.3, 1.0)  # of responses; the first is `win_rate` of results.json
  c.evaluation.top_p = 1.0  # of responses
  # Written of a user; of several, the greedy one and samples, the likeliest by the shots is kept.
  c.evaluation.descriptions = 1
  c.evaluation.description_temperature = 0.0  # of what is written or sampled; 0 is greedy
  # How sure of a label a nat makes: of several, and of those that RAT is trained under; see rat.py.
  c.evaluation.description_beta = 0.1
  c.evaluation.max_response_tokens = 40
  c.evaluation.max_description_tokens = 24
  c.evaluation.bootstrap = 2000  # resamples of users for the 95 % intervals
  return c


def _stage(steps: int) -> ml_collections.ConfigDict:
  """The keys that both training stages have."""
  c = ml_collections.ConfigDict()
  c.steps = steps  # updates
  c.shots = 8  # preferences in an episode's context
  c.queries = 1  # preferences scored after them
  c.rows_per_step = 4  # rows of the global batch
  # A window of `window_rows` rows shares `row_episodes` times as many episodes, which are spread so
  # that rows are about as full: 2 a row in windows of 32, or 4 in windows of 64 where texts differ
  # much in length, hardly leave padding (`presets.share_rows`).
  c.row_episodes = 1  # episodes packed in a row; of a window of several rows, on average
  c.window_rows = 1
  # Of a row; 0 and 0 for as few as 99 % of the rows of some of the run's windows take.
  c.row_tokens = 768
  c.scored_tokens = 512
  c.accumulate = 1  # parts a batch is split into, one after another
  c.log_every = 10  # steps
  c.checkpoint_every = 200  # steps
  c.keep_checkpoints = 2
  c.data_threads = 1
  c.curriculum = ml_collections.ConfigDict()
  c.curriculum.use = True  # easier episodes first; only worlds have a curriculum
  c.curriculum.start = 0.5  # fraction of the run with the easiest episodes
  c.curriculum.end = 1.0  # fraction from which on episodes are the target's
  c.curriculum.candidates = 48  # pairs are best and worst of so many at the start
  c.layout = ml_collections.ConfigDict()  # which branches an episode's tree has
  c.layout.shot_pairs = False  # score each shot's pair given the shots before it
  c.layout.rejected = True  # rejected responses too
  c.layout.query_shots = ()  # numbers of shots after which the queries are scored
  c.layout.description_shots = ()  # numbers of shots after which the description is
  c.layout.description_queries = ()  # after which of these the queries hang under it too
  c.layout.description_pairs = False  # compare two sampled descriptions (episodes that have them)
  c.layout.description_pair_queries = False  # the queries hang under the kept one too
  c.layout.rewards = False  # each response under what opens its own reward (rewards in context)
  c.loss = ml_collections.ConfigDict()
  c.loss.name = "ipo"  # or 'dpo', 'kto', 'simpo'
  c.loss.beta = 0.1  # IPO: the target margin is 1 / (2 beta) nats
  c.loss.label_smoothing = 0.0  # DPO only
  c.loss.gamma = 0.0  # SimPO only: target of beta x difference in log-prob per token
  c.loss.desirable_weight = 1.0  # KTO only: lambda_D, of chosen responses
  c.loss.undesirable_weight = 1.0  # KTO only: lambda_U, of rejected responses
  c.loss.length_normalize = False  # False: summed log-probs, as in the paper's code; SimPO: True
  c.loss.preference_weight = 0.04  # 4 beta^2 makes IPO's loss 1 at the start
  c.loss.chosen_weight = 1.0  # of the chosen responses' NLL per token
  c.loss.description_weight = 1.0  # of the descriptions' NLL per token
  c.optimizer = ml_collections.ConfigDict()
  c.optimizer.name = "muon"  # or 'adamw', 'rmsprop'
  c.optimizer.learning_rate = 4e-3
  c.optimizer.adam_learning_rate = 1.5e-3
  c.optimizer.warmup_steps = 20
  c.optimizer.decay_fraction = 0.4  # last part of the run, linearly to 0
  c.optimizer.clip_norm = 1.0
  c.optimizer.weight_decay = 0.0
  c.optimizer.b2 = 0.98  # decay of the second moment
  c.lora = ml_collections.ConfigDict()  # adapters in place of all parameters; see models/lora.py
  c.lora.rank = 0  # of the adapters; 0 to train all parameters
  c.lora.alpha = 16.0  # updates are scaled by alpha / rank
  c.lora.projections = ("q", "k", "v", "o", "gate", "up", "down")  # matrices that have one
  c.lora.dropout = 0.0  # of the adapters' inputs
  return c


def formatter(c: ml_collections.ConfigDict, tokenizer: Tokenizer) -> Formatter:
  """How text becomes token ids; ValueError if `template` is not for this tokenizer."""
  if c.template == "chat":
    return chat.formatter(tokenizer, system=c.chat.system, date=c.chat.date)
  return Formatter(tokenizer, TEXT_TEMPLATES[c.template])


def transformer(c: ml_collections.ConfigDict, vocab_size: int) -> TransformerConfig:
  """The decoder of `model`, for a tokenizer of `vocab_size` ids."""
  keys = {key: tuple(v) if isinstance(v, list) else v for key, v in c.model.items()}
  # Runs that are older than the key have the tokenizer's.
  given = keys.pop("vocab_size", 0)
  if given and given < vocab_size:
    raise ValueError(
      f"model.vocab_size={given}: found a tokenizer of {vocab_size} ids, expected no more"
    )
  return TransformerConfig(vocab_size=given or vocab_size, **keys)


def opened(c: ml_collections.ConfigDict, vocab_size: int) -> TransformerConfig:
  """`transformer` of a model that is opened again: kernels are of the devices it was trained on."""
  return dataclasses.replace(transformer(c, vocab_size), attention="xla")


def use_shape(c: ml_collections.ConfigDict, shape: TransformerConfig) -> None:
  """Gives a config the model of another: all of `model` but how it is computed."""
  c.model.update({k: v for k, v in dataclasses.asdict(shape).items() if k not in HOW})


def layout(stage: ml_collections.ConfigDict) -> Layout:
  """Which branches a stage's episode trees have."""
  return Layout(**{k: tuple(v) if isinstance(v, list) else v for k, v in stage.layout.items()})


def objective(stage: ml_collections.ConfigDict) -> Objective:
  """What a stage minimises."""
  return Objective(**stage.loss)


def mixture(c: ml_collections.ConfigDict) -> Mixture:
  """What the documents of `pretraining` are."""
  keys = dict(c.pretraining)
  phases = tuple(
    Phase(start, *weights, tuple(worlds), best)
    for start, weights, worlds, best in keys.pop("phases")
  )
  numbers = {key: tuple(keys.pop(key)) for key in ("pairs", "answers")}
  return Mixture(phases, **numbers, **keys)


def synthesis_settings(c: ml_collections.ConfigDict) -> Settings:
  """What a synthetic set is made of; ValueError naming the key of an impossible value."""
  keys = dict(c.synthesis.set)
  models = tuple(Model(*model) for model in keys.pop("models"))
  return Settings(models=models, judge=Model(*keys.pop("judge")), **keys)


def flaws(c: ml_collections.ConfigDict) -> Flaws:
  """What is wrong with the world's stand-in for a language model."""
  return Flaws(**c.synthesis.flaws)


def gate(c: ml_collections.ConfigDict) -> Gate:
  """What a synthetic set must reach to be trained on."""
  return Gate(**c.synthesis.gate)


def optimizer(stage: ml_collections.ConfigDict) -> OptimizerConfig:
  """A stage's update rule."""
  return OptimizerConfig(**stage.optimizer)


def loop(stage: ml_collections.ConfigDict) -> LoopConfig:
  """How a stage's loop runs."""
  names = LoopConfig.__dataclass_fields__
  return LoopConfig(**{name: stage[name] for name in names})


def lora(stage: ml_collections.ConfigDict) -> LoraConfig | None:
  """The adapters that a stage trains; None where it trains all parameters."""
  keys = stage.lora
  if not keys.rank:
    if keys.dropout:
      raise ValueError(f"lora.dropout={keys.dropout}: found lora.rank=0, which has no adapters")
    return None
  return LoraConfig(keys.rank, keys.alpha, tuple(keys.projections), keys.dropout)


def curriculum(stage: ml_collections.ConfigDict) -> Curriculum | None:
  """A stage's curriculum; None where `curriculum.use` is False."""
  keys = stage.curriculum
  return Curriculum(keys.start, keys.end, keys.candidates) if keys.use else None


def packing(
  stage: ml_collections.ConfigDict, shots: int | None = None, queries: int | None = None
) -> Packing:
  """The static shape of a stage's rows; numbers of shots and queries in place of the stage's.

  Raises:
    ValueError: the stage leaves it to its texts (`row_tokens=0`), which `rows.of_stage` looks at.
  """
  if not stage.row_tokens:
    raise ValueError(
      "row_tokens=0: found nothing that says how long rows are, expected row_tokens and "
      "scored_tokens where there are no texts to look at"
    )
  return Packing.of(
    layout(stage),
    shots=stage.shots if shots is None else shots,
    queries=stage.queries if queries is None else queries,
    episodes=stage.row_episodes,
    tokens=stage.row_tokens,
    scored_tokens=stage.scored_tokens,
    window_rows=stage.window_rows,
  )
