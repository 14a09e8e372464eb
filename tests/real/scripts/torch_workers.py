"""Samples from two worker processes, which draw noise of their own."""

import random

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((4,), index / 32) + torch.randn(4) + random.random()


def main() -> None:
    torch.manual_seed(9)
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=2)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    for epoch in range(2):
        for batch in loader:
            loss = nn.functional.mse_loss(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {loss.item()}")


if __name__ == "__main__":
    main()
