"""Both optimizers where people train: Accelerate, Lightning, Hugging Face's Trainer, timm; each ends sparser."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from directional_pruning import GRDA, Directional, prunable_groups

pytestmark = pytest.mark.slow

STRONG = {"lr": 0.4, "c": 0.05, "mu": 0.7}
MAKE = {
    "GRDA": lambda model: GRDA(prunable_groups(model), **STRONG),
    "Directional": lambda model: Directional(torch.optim.AdamW(prunable_groups(model), lr=0.05), c=0.6, mu=0.7),
}


def points():
    """Batches of points of two classes, told apart by the first of eight coordinates."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))


def zeros(model):
    return sum(int((p == 0).sum()) for p in model.parameters() if p.ndim > 1)


def weights(model):
    return sum(p.numel() for p in model.parameters() if p.ndim > 1)


def accuracy(model):
    x, y = points().dataset.tensors
    return (model(x).argmax(1) == y).float().mean().item()


def by_hand(make):
    """The same training without a framework."""
    model = network()
    optimizer = make(model)
    for _ in range(6):
        for x, y in points():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def same(model, other):
    return all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.fixture(scope="module", params=MAKE.values(), ids=MAKE)
def make(request):
    return request.param


@pytest.fixture(scope="module")
def plain(make):
    model = by_hand(make)
    assert 0.2 * weights(model) < zeros(model) < weights(model)
    assert accuracy(model) > 0.9
    return model


def test_accelerate(plain, make, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    model, optimizer, loader = accelerator.prepare(model, make(model), points())

    def epochs(n):
        for _ in range(n):
            for x, y in loader:
                optimizer.zero_grad()
                accelerator.backward(nn.functional.cross_entropy(model(x), y))
                optimizer.step()

    epochs(3)
    accelerator.save_state(tmp_path)
    epochs(3)
    assert same(accelerator.unwrap_model(model), plain)
    accelerator.load_state(tmp_path)
    epochs(3)
    assert same(accelerator.unwrap_model(model), plain)


# Lightning 2.6 asks torch's pytree a question in a form that torch 2.13 deprecates.
@pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated, "
    r"use `isinstance\(treespec, TreeSpec\) and treespec.is_leaf\(\)` instead.:FutureWarning"
)
# Advice of Lightning on machines of more than two processors; 64 points need no workers.
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning")
def test_lightning(plain, make, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, _):
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            return make(self.net)

    def trainer(epochs):
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )

    whole, half, resumed = Module(), Module(), Module()
    trainer(6).fit(whole, points())
    assert same(whole.net, plain)
    stopped = trainer(3)
    stopped.fit(half, points())
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    trainer(6).fit(resumed, points(), ckpt_path=tmp_path / "half.ckpt")
    assert same(resumed.net, plain)


def test_trainer_of_transformers(make, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Sentences(Dataset):
        def __len__(self):
            return 32

        def __getitem__(self, index):
            tokens = torch.randint(0, 50, (12,), generator=torch.Generator().manual_seed(index))
            return {"input_ids": tokens, "labels": tokens}

    config = transformers.GPT2Config(
        vocab_size=50, n_positions=12, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )

    def train(folder, optimizer, **resume):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=8,
            save_steps=4,
            per_device_train_batch_size=8,
            learning_rate=STRONG["lr"],
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=Sentences(), **optimizer(model))
        trainer.train(**resume)
        return model

    def instance(model):
        return {"optimizers": (make(model), None)}

    def by_class(_):
        return {"optimizer_cls_and_kwargs": (GRDA, STRONG)}

    for optimizer in (instance, by_class) if make is MAKE["GRDA"] else (instance,):
        folder = tmp_path / optimizer.__name__
        model = train(folder, optimizer)
        assert 0.05 * weights(model) < zeros(model) < weights(model)
        assert same(train(folder, optimizer, resume_from_checkpoint=str(folder / "checkpoint-4")), model)


def test_factory_of_timm():
    timm = pytest.importorskip("timm")
    from timm.optim import OptimInfo, create_optimizer_v2
    from timm.optim._optim_factory import default_registry

    default_registry.register(OptimInfo("grda", GRDA, "SGD that ends sparse", has_eps=False, has_momentum=True))
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=4, in_chans=1)
    optimizer = create_optimizer_v2(model, opt="grda", **STRONG)
    x, y = torch.randn(8, 1, 32, 32), torch.arange(8) % 4
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert zeros(model) > 0.1 * weights(model)
