"""Define network architectures: layers, upsampling, the hourglass and spectral norms.

Networks are independent of measurement and loss. Priors and tasks import this package.
"""
