"""The optimizers' formulas as their papers have them, in numpy and float64."""

from __future__ import annotations

import numpy as np

from kernels.optimizers import (
    AdagradMomentumOptimizerSpec,
    AdagradOptimizerSpec,
    AdamOptimizerSpec,
    F2AOptimizerSpec,
    FTRLOptimizerSpec,
    LaPropOptimizerSpec,
    RowWiseAdagradOptimizerSpec,
    SGDOptimizerSpec,
)

KINDS = [
    SGDOptimizerSpec,
    AdagradOptimizerSpec,
    RowWiseAdagradOptimizerSpec,
    AdagradMomentumOptimizerSpec,
    AdamOptimizerSpec,
    FTRLOptimizerSpec,
    LaPropOptimizerSpec,
    F2AOptimizerSpec,
]

VARIANTS = {
    "sgd": SGDOptimizerSpec(0.3),
    "adagrad": AdagradOptimizerSpec(0.3),
    "row_wise_adagrad": RowWiseAdagradOptimizerSpec(0.3),
    "adagrad_momentum": AdagradMomentumOptimizerSpec(0.3, initial_momentum_value=0.2),
    "adagrad_momentum_nesterov": AdagradMomentumOptimizerSpec(
        0.3, momentum=0.8, beta2=0.9, epsilon=1e-3, exponent=3.0, use_nesterov=True
    ),
    "adam": AdamOptimizerSpec(0.3),
    "adam_other": AdamOptimizerSpec(0.05, beta_1=0.5, beta_2=0.8, epsilon=1e-2),
    "ftrl": FTRLOptimizerSpec(0.3),
    "ftrl_regularized": FTRLOptimizerSpec(0.3, -0.7, 0.5, 0.2, 0.1, initial_linear_value=0.3),
    "ftrl_scaled": FTRLOptimizerSpec(
        0.3, -0.5, 0.5, 0.2, 0.1, multiply_linear_by_learning_rate=True
    ),
    "laprop": LaPropOptimizerSpec(0.3),
    "laprop_other": LaPropOptimizerSpec(0.3, b1=0.5, b2=0.8, eps=1e-3, initial_slot_value=0.1),
    "f2a": F2AOptimizerSpec(0.3),
    "f2a_regularized": F2AOptimizerSpec(
        0.3, 0.9, l1_regularization_strength=0.1, l2_regularization_strength=0.2,
        max_lr_multiplier=1.5,
    ),
}  # fmt: skip


def true_step(spec, gradient, table, slots, step):
    """New rows and slots; ``step`` counts from 0. All arrays are float64 and stay as they are."""
    g, w, rate = gradient, table, spec.learning_rate
    match spec:
        case SGDOptimizerSpec():
            return w - rate * g, ()
        case AdagradOptimizerSpec():
            a = slots[0] + g**2
            return w - rate * _ratio(g, np.sqrt(a)), (a,)
        case RowWiseAdagradOptimizerSpec():
            a = slots[0] + np.mean(g**2, axis=1, keepdims=True)
            return w - rate * g / (np.sqrt(a) + spec.epsilon), (a,)
        case AdagradMomentumOptimizerSpec():
            a, m = slots
            a = a + g**2 if spec.beta2 == 1 else spec.beta2 * a + (1 - spec.beta2) * g**2
            scaled = g * (a + spec.epsilon) ** (-1 / spec.exponent)
            m = spec.momentum * m + scaled
            move = spec.momentum * m + scaled if spec.use_nesterov else m
            return w - rate * move, (a, m)
        case AdamOptimizerSpec():
            t, (b1, b2) = step + 1, (spec.beta_1, spec.beta_2)
            m, v = b1 * slots[0] + (1 - b1) * g, b2 * slots[1] + (1 - b2) * g**2
            # Algorithm 1 of the paper; the spec folds the corrections into rate and epsilon.
            m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
            return w - rate * m_hat / (np.sqrt(v_hat) + spec.epsilon), (m, v)
        case FTRLOptimizerSpec():
            return _true_ftrl(spec, g, w, *slots)
        case LaPropOptimizerSpec():
            mu, nu = slots
            decay = spec.b2 * (1 - spec.b2**step) / (1 - spec.b2 ** (step + 1))
            nu = decay * nu + (1 - decay) * (g**2 + spec.eps)
            mu = spec.b1 * mu + np.sqrt(1 - spec.b1**2) * g / np.sqrt(nu)
            return w - rate * mu, (mu, nu)
        case F2AOptimizerSpec():
            a, seen = slots[0] + g**2, slots[1] + 1
            factor = np.minimum((max(step, 1) / seen) ** spec.rho, spec.max_lr_multiplier)
            move = factor * _ratio(g, np.sqrt(a)) + spec.l1_regularization_strength * np.sign(w)
            return w - rate * (move + spec.l2_regularization_strength * w), (a, seen)
    raise AssertionError(spec)


def _true_ftrl(spec, g, w, n, z):
    rate, power = spec.learning_rate, -spec.learning_rate_power
    l1, l2 = spec.l1_regularization_strength, spec.l2_regularization_strength
    new = n + g**2
    if spec.multiply_linear_by_learning_rate:
        z = z + rate * g - (new**power - n**power) * w
        threshold, denominator = rate * l1, new**power + 2 * rate * l2 + spec.beta
    else:
        z = z + g - (new**power - n**power) / rate * w
        threshold, denominator = l1, (new**power + spec.beta) / rate + 2 * l2
    shrunk = np.where(np.abs(z) <= threshold, 0.0, np.sign(z) * threshold - z)
    return _ratio(shrunk, denominator), (new, z)


def _ratio(numerator, denominator):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(numerator == 0, 0.0, numerator / denominator)
