"""AdamW as in the paper, for one parameter: the reference for the optimizer and for complete runs."""

import numpy as np


class Textbook:
    """Loshchilov & Hutter 2019, algorithm 2 with the schedule inside lr, for one parameter."""

    def __init__(self, theta, decay, betas, eps):
        self.theta, self.decay, (self.b1, self.b2), self.eps = theta.copy(), decay, betas, eps
        self.m, self.v, self.t = np.zeros_like(theta), np.zeros_like(theta), 0

    def step(self, g, lr):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        m_hat = self.m / (1 - self.b1**self.t)
        v_hat = self.v / (1 - self.b2**self.t)
        self.theta = self.theta - lr * m_hat / (np.sqrt(v_hat) + self.eps) - lr * self.decay * self.theta
