"""Pretrains a teacher on generated images only: `python -m tools.pretrain_teacher`.

From formulas instead of photographs, as H. Kataoka et al. (FractalDB, ACCV 2020), M. Baradad et al.
(NeurIPS 2021 and 2022) and, for anomaly detection, C. Ugwu et al. (2024) do it.
"""
