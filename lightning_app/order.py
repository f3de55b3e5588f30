import torch
class SeededOrder:
    def __init__(self, length, seed=0, shuffle=True):
        self.length, self.seed, self.shuffle = length, seed, shuffle
    def indices(self, epoch, start, stop):
        if not self.shuffle: return torch.arange(start, stop)
        g = torch.Generator().manual_seed(self.seed*1000003+epoch)
        return torch.randperm(self.length, generator=g)[start:stop]
