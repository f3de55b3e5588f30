"""Mechanisms that make steps right: loaders, losses, modules and replicas."""

from contextlib import nullcontext

from tests.wild import broken
from tests.wild.mechanism import Mechanism

MECHANISMS: dict[str, Mechanism] = {
    # Loaders and samplers.
    "a batch is split once": Mechanism(
        "strategies.loaders.passes.shard_bounds",
        lambda size, rank, world_size: (0, size),
        "ddp2",
        "plain; dicts; named tuples; indices are tuples; indices are names; "
        "data set without a length; batch sampler is a list; drop_last; dict of loaders; "
        "max_size_cycle; min_size; loaders on the model; graphs; lists of images; "
        "collate makes three of one; limit_train_batches; overfit_batches",
    ),
    "a pass asks the sampler once": Mechanism(
        "strategies.loaders.passes.Pass.begin",
        broken.draws_twice,
        "one",
        "shuffle by own generator; bucketing; bucketing by numpy; sampler shuffles in place; "
        "sampler counts passes; sampler with a state, limited; k-NN over a state",
    ),
    "the view has the loader's sampler": Mechanism(
        "strategies.loaders.loader.view_of",
        broken.with_a_sampler_of_its_own,
        "one",
        "sampler is told the epoch; sampler weights change; curriculum turns the sampler",
    ),
    "the view has the loader's attributes": Mechanism(
        "strategies.loaders.loader.view_of",
        broken.plain_view,
        "one",
        "loader with own attributes; hooks read loaders",
    ),
    "what cannot be split is refused": Mechanism(
        "strategies.loaders.loader.why_not_split",
        broken.nothing,
        "ddp2",
        "loader with own __iter__; loader keeps its iterator; stream; no DataLoader",
    ),
    "what is empty needs no split": Mechanism(
        "strategies.loaders.loader.sized_len",
        lambda dataloader: 1,
        "ddp2",
        "an empty list of loaders",
    ),
    "whole batches are refused": Mechanism(
        "strategies.loaders.passes.Pass._check_ready_made", broken.nothing, "ddp2", "whole batches"
    ),
    "parts that are padded apart are found": Mechanism(
        "strategies.loaders.whole.are_padded_apart",
        broken.no,
        "ddp2",
        "padded to the longest; padded and sorted; padded in workers; padded, not at first; "
        "padded by the data set; padded, loaders made in setup; padded, some of an epoch; "
        "a mean over padded time; padded, and a sample squeezed; "
        "padded as lists; padded, to predict",
    ),
    "a batch is looked at for samples that are left out": Mechanism(
        "strategies.batch.loss_weight.LossWeight.set",
        broken.nothing,
        "ddp2",
        "padded, and samples dropped",
    ),
    "places of samples in a batch are found": Mechanism(
        "strategies.batch.padded._are_places", broken.no, "ddp2", "padded, with places in the batch"
    ),
    "predictions come with the indices of their part": Mechanism(
        "inside.note_indices", broken.nothing, "ddp2", "padded, to predict, not to be split"
    ),
    "predictions of a sample a process are told of": Mechanism(
        "strategies.checks.telling.TellOnce.__call__",
        broken.nothing,
        "ddp3",
        "padded, to predict, a sample a process",
    ),
    "ranks draw the same for whole batches": Mechanism(
        "strategies.loaders.loader.SeededSampler",
        lambda sampler, seed: sampler,
        "ddp2",
        "padded and shuffled, by steps that draw",
    ),
    "ranks compare in one order": Mechanism(
        "strategies.loaders.whole._is_passed_by",
        broken.no,
        "ddp2",
        "padded, several in validation",
    ),
    "a hook's pass is its own": Mechanism(
        "strategies.loaders.shards.Shards.start",
        broken.where_training_is,
        "one",
        "k-NN in validation",
    ),
    "a rank without samples runs others'": Mechanism(
        "strategies.loaders.passes.Pass._asked_for",
        broken.asked_for_nothing,
        "ddp2",
        "flattens, batch size 1; looks at the first sample; 0-dim tensor and strings; "
        "packed sequences; packed, time first; GRU with a first state; attention with a mask; "
        "token means, some ranks idle; autoencoder",
    ),
    "nothing stays of a step of nothing": Mechanism(
        "strategies.ddp.strategy.nothing_stays", broken.as_it_comes, "ddp3", "averages of means"
    ),
    "what is put back is unseen by autograd": Mechanism(
        "strategies.ddp.strategy.nothing_stays",
        broken.put_back_seen,
        "ddp2",
        "parametrized layers, a rank idle",
    ),
    "samples are counted": Mechanism(
        "strategies.global_batch.num_rows",
        lambda batch, num_asked: 1,
        "ddp2",
        "time first; nested tensors",
    ),
    "dropped samples are noticed": Mechanism(
        "strategies.global_batch.num_rows", broken.as_asked, "ddp2", "collate drops samples"
    ),
    # Losses and modules.
    "a shard counts by its samples": Mechanism(
        "strategies.batch.loss_weight.LossWeight.weigh_loss",
        lambda self, loss, model: loss,
        "ddp2",
        "GAN; transformer; image classifier; examples, digits; examples, text; examples, GAN; CNN; "
        "sparse embedding; spectral norm; a module without input; a tensor class of its own; "
        "loss of shape (1,); manual optimization; manual accumulation; accumulation and clipping; "
        "AdamW; on_train_batch_start returns -1; own hyperparameters",
    ),
    "means over something else": Mechanism(
        "strategies.ddp.strategy.mean_over",
        broken.nothing,
        "ddp2",
        "token means; token means, several batches; token means, logged in each way; "
        "class weights; masked by hand; "
        "collate drops, and says so",
    ),
    "what differs is told": Mechanism(
        "strategies.checks.telling.TellOnce.__call__",
        broken.nothing,
        "ddp2",
        "BatchNorm, larger parts; dropout; mixup by numpy; codebook in a buffer; "
        "sums up codes, a rank idle; a queue of features; "
        "a mean over nodes; contrastive; gathers means; a metric's own value; "
        "a metric's own value of a step; "
        "validation_step_outputs; losses balanced by gradients; standard targets; "
        "a running mean scales the loss; logs beside the step; averages of samples, one a rank; "
        "validation_step_outputs, synced; a sum for a loss; clamps gradients; "
        "a rate by samples seen; logs as a batch begins, a rank idle; mixes a batch with itself; "
        "a batch size per device; augmentation in the data set; weights of samples; "
        "meta-learning; a collection's own values; correlation of a sample each; "
        "a list, entry by entry; noise in a test; counts after steps, a rank idle; "
        "a part of the test per process; averages of the last losses; "
        "a callback trains a probe; padded, beside concatenated targets; "
        "gathers losses at an epoch's end; contrastive, gathered for a log",
    ),
    "gradients that go back to one process are told": Mechanism(
        "strategies.checks.gathers.Gathers.what_is_lost",
        broken.nothing,
        "ddp2",
        "contrastive, gathered, its own put back",
    ),
    "BatchNorm of one sample is refused": Mechanism(
        "strategies.ddp.strategy.refused_by_batchnorm", broken.as_it_comes, "ddp2", "BatchNorm"
    ),
    "a rank without samples leaves nothing in an evaluation": Mechanism(
        "strategies.ddp.strategy.nothing_stays", broken.as_it_comes, "ddp2", "pairs in validation"
    ),
    "nobody waits for a rank that skips a step": Mechanism(
        "strategies.ddp.strategy.refused_to_wait",
        broken.as_it_comes,
        "ddp2",
        "computes in a step without samples; gathers in a step without samples; "
        "gathers after a step without samples",
    ),
    "shapes that are gathered are checked": Mechanism(
        "strategies.checks.refused.check_shapes",
        broken.nothing,
        "ddp2",
        "contrastive, gathered; contrastive, gathered by torch",
    ),
    "who gathers alone is noticed": Mechanism(
        "processes.collectives._check_same_place",
        broken.nothing,
        "ddp2",
        "gathers a list, a rank idle",
    ),
    "gradients that a hook sees are averaged": Mechanism(
        "strategies.ddp.averaging.AveragesGradients._look_for_hooks",
        broken.nothing,
        "ddp2",
        "clips after each backward; clips in backward",
    ),
    "ranks agree on hooks of gradients": Mechanism(
        "strategies.ddp.averaging.all_objects",
        broken.alone,
        "ddp2",
        "looks at gradients on one rank",
    ),
    "gradients that come twice, or not, are refused": Mechanism(
        "strategies.ddp.strategy.refused_by_gradients",
        broken.as_it_comes,
        "ddp2",
        "recomputes, reentrant; a layer without a part in the loss",
    ),
    "a step without a loss is refused": Mechanism(
        "strategies.global_batch.check_may_skip",
        broken.nothing,
        "ddp2",
        "training_step returns None",
    ),
    "a second step on a batch is refused": Mechanism(
        "strategies.ddp.strategy.check_new", broken.nothing, "ddp2", "asks for the loss again"
    ),
    "LBFGS is refused": Mechanism(
        "strategies.ddp.strategy.check_optimizers", broken.nothing, "ddp2", "LBFGS by hand; LBFGS"
    ),
    "ranks that part are noticed": Mechanism(
        "strategies.ddp.strategy.check_ranks_agree",
        broken.nothing,
        "ddp2",
        "loss.backward() by hand",
    ),
    "nothing is looked at while compiled": Mechanism(
        "strategies.checks.means._Watch.__torch_function__",
        broken.looks_while_compiled,
        "ddp2",
        "compiles itself",
    ),
    "nothing of ours is on a module": Mechanism(
        "strategies.module_calls.ModuleCalls.follow",
        broken.by_hooks,
        "one",
        "scripted; exports its net",
    ),
    "states are aligned": Mechanism(
        "strategies.logs.global_logs.align_states",
        broken.nothing,
        "ddp3",
        "states that are lists; states that are lists, a rank idle",
    ),
    "workers that stay have drawn": Mechanism(
        "strategies.loaders.loader.ShardedLoader._have_drawn",
        property(broken.no),
        "ddp2",
        "keeps its workers",
    ),
    "all_gather gathers": Mechanism(
        "strategies.ddp.strategy.DDPStrategy.all_gather",
        lambda self, tensor, group=None, sync_grads=False: tensor[None],
        "ddp2",
        "all_gather; contrastive, gathered, equal parts",
    ),
    "ranks are not seeded anew": Mechanism(
        "strategies.ddp.meeting.set_global_states",
        broken.nothing,
        "ddp2",
        "split at random in setup; a head made in configure_model",
    ),
    "what is trained is followed": Mechanism(
        "strategies.ddp.trained.TrainedParameters.have_changed",
        broken.no,
        "ddp2",
        "unfreezes a layer; freezes a layer; adds to the optimizer; finetuning schedule",
    ),
    "what callbacks train is theirs": Mechanism(
        "strategies.ddp.averaging.AveragesGradients._may_be_trained",
        lambda self: {*self.lightning_module.parameters()},
        "ddp2",
        "a callback adds a layer",
    ),
    "DDP is made anew without them": Mechanism(
        "strategies.ddp.averaging.AveragesGradients._without_others",
        lambda self: nullcontext(),
        "ddp2",
        "a callback adds a layer, and one thaws",
    ),
    "objects need no dictionary": Mechanism(
        "telemetry.sizes._first_shape", broken.by_dictionary, "one", "objects with slots"
    ),
    "modes are the user's": Mechanism(
        "telemetry.console.Console.on_train_epoch_end",
        broken.turns_to_training,
        "one",
        "frozen BatchNorm; BatchNorm frozen once",
    ),
    "nobody else calls the model": Mechanism(
        "telemetry.dashboard.callback.Dashboard.on_train_epoch_start",
        broken.runs_the_model,
        "one",
        "forward counts its calls",
    ),
    # Replicas.
    "outputs are joined": Mechanism(
        "strategies.dp.scatter_gather.Gather.__call__",
        lambda self, outputs: outputs[0],
        "dp2",
        "outputs are dataclasses; outputs are distributions; arguments by name",
    ),
    "a length tells nothing": Mechanism(
        "strategies.batch.rows.Rows.kind", broken.by_length, "dp2", "an argument as long as a batch"
    ),
    "a transform runs in one piece": Mechanism(
        "strategies.dp.strategy.is_in_transform", broken.no, "dp2", "meta-learning"
    ),
    "weights that are not there are finite": Mechanism(
        "checkpoint.finite.is_lazy", broken.no, "one", "lazy layers"
    ),
    "hooks run once": Mechanism(
        "strategies.dp.replicas.Replicas.call",
        broken.hooked,
        "dp2",
        "hooks on the outermost module",
    ),
    "what a forward writes is told": Mechanism(
        "strategies.dp.replicas.Replicas._tell_of_writes",
        broken.nothing,
        "dp2",
        "forward writes an attribute; a hook keeps activations",
    ),
}
