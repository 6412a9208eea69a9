"""One scMODAL training step written as the published package does it, from a description of it.

Distances by broadcasting B x B x p, neighbours from approximate trees, the graph kept
through five discriminator steps whose gradients run into the encoders for nothing,
one decoder call per use, Adam one parameter at a time, dense input.
"""

import numpy as np
import torch
from neighbor_forest import mutual_pairs
from torch import nn


class AuthorsStep:
    """Two modalities; starts from the weights of a mocli model."""

    def __init__(self, model, x, linked, *, seed=0):
        net, self.p = model.module, model.params
        self.e = [_copy(m) for m in net.encoders]
        self.g = [_copy(m) for m in net.decoders]
        self.d = _copy(net.discriminators[0])
        self.x, self.linked = x, linked
        adam = {
            "lr": self.p.lr,
            "betas": (self.p.beta1, self.p.beta2),
            "weight_decay": self.p.weight_decay,
            "foreach": False,
            "fused": False,
        }
        self.generator = [w for m in (*self.e, *self.g) for w in m.parameters()]
        self.opt_g = torch.optim.Adam(self.generator, **adam)
        self.opt_d = torch.optim.Adam(self.d.parameters(), **adam)
        self.rng = np.random.default_rng(seed)

    def __call__(self):
        """Draw a minibatch and step."""
        rows = [self.rng.choice(len(x), self.p.batch_size) for x in self.x]
        x = [torch.from_numpy(m[r]) for m, r in zip(self.x, rows, strict=True)]
        return self.step(*x, *(m[r] for m, r in zip(self.linked, rows, strict=True)))

    def step(self, x1, x2, l1, l2):
        """Five discriminator steps and one of encoders and decoders; returns the terms."""
        p, (e1, e2), (g1, g2) = self.p, self.e, self.g
        z1, z2 = e1(x1), e2(x2)
        for _ in range(p.critic_steps):
            critic = self._d_loss(z1, z2)
            self.opt_d.zero_grad()
            critic.backward(retain_graph=True)
            self.opt_d.step()
        pairs = mutual_pairs(l1, l2, p.n_neighbors)
        terms = {
            "adversarial": -self._d_loss(z1, z2),
            "reconstruction": ((g1(z1) - x1) ** 2).mean() + ((g2(z2) - x2) ** 2).mean(),
            "cycle": ((z1 - e2(g2(z1))) ** 2).mean() + ((z2 - e1(g1(z2))) ** 2).mean(),
            "mnn": ((z1[pairs[:, 0]] - z2[pairs[:, 1]]) ** 2).mean(),
            "geometry": self._geometry(x1, z1) + self._geometry(x2, z2),
        }
        total = sum(getattr(p, f"weight_{name}") * value for name, value in terms.items())
        self.opt_g.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.generator, p.clip_norm)
        self.opt_g.step()
        return {"critic": critic, **terms}

    def _d_loss(self, z1, z2):
        logit1, logit2 = (self.d(z).clamp(-50.0, 50.0) for z in (z1, z2))
        return (torch.log(1 + torch.exp(-logit1)) + torch.log(1 + torch.exp(logit2))).mean()

    def _geometry(self, x, z):
        cosine = torch.cosine_similarity(_kernel(x), _kernel(z), dim=1, eps=1e-6)
        return -cosine.clamp(max=self.p.geometry_cap).mean()


def _kernel(x):
    return torch.exp(-((x[:, None, :] - x[None, :, :]) ** 2).sum(2) / (2 * x.shape[1]))


def _copy(mlp):
    layers = []
    for layer in mlp.layers:
        fresh = nn.Linear(layer.in_features, layer.out_features)
        fresh.load_state_dict(layer.state_dict())
        layers += [fresh, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
