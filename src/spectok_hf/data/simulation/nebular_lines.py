"""Lines of gas in and in front of galaxies and quasars: wavelengths in vacuum, and how strong they are; facts only.

Wavelengths: NIST Atomic Spectra Database (Kramida et al., physics.nist.gov/asd); of metals that absorb, Morton 2003,
ApJS 149, 205.
"""

import numpy as np

# Hydrogen over H beta, case B at 10^4 K and 100 per cm³: Osterbrock & Ferland 2006, table 4.4.
BALMER_LINES = np.array(
    [
        [6564.61, 2.86], [4862.68, 1.0], [4341.68, 0.468], [4102.89, 0.259], [3971.20, 0.159], [3890.15, 0.105],
        [3836.47, 0.0731], [3798.98, 0.0530], [3771.70, 0.0397], [3751.22, 0.0305], [3735.43, 0.0238],
        [10052.1, 0.0554], [9548.65, 0.0365], [9231.60, 0.0253], [9017.44, 0.0184],
    ]
)  # fmt: skip

# Metals and helium that shine: the ratio that drives a line, wavelength, flux over the driver's. The ratios within a
# multiplet are those of its transition probabilities (Storey & Zeippen 2000, MNRAS 312, 813: 2.98 and 3.05) or of its
# low-density limit (Osterbrock & Ferland 2006, figure 5.8); [NeIII]/[OIII]: Levesque & Richardson 2014, ApJ 780, 100.
NEBULAR_LINES = {
    "[OIII]": ((5008.24, 1.0), (4960.30, 1 / 2.98), (4364.44, 0.008), (3869.86, 0.08), (3968.59, 0.024)),
    "[NII]": ((6585.27, 1.0), (6549.86, 1 / 3.05), (5756.19, 0.012)),
    "[OII]": ((3727.09, 0.42), (3729.88, 0.58), (7321.9, 0.01), (7332.2, 0.008)),
    "[SII]": ((6718.29, 0.57), (6732.67, 0.43), (4069.75, 0.02)),
    "[OI]": ((6302.05, 1.0), (6365.54, 0.33)),
    "[SIII]": ((9071.1, 0.41), (9533.2, 1.0), (6313.8, 0.03)),
    "HeI": ((5877.25, 1.0), (6680.0, 0.28), (4472.73, 0.37), (7067.2, 0.2), (3889.75, 0.8)),
    "HeII": ((4687.02, 1.0), (1640.42, 6.0)),
    "[ArIII]": ((7137.8, 1.0), (7753.2, 0.24)),
    "[NeV]": ((3426.85, 1.0), (3346.79, 0.37)),
    "CIII]": ((1906.68, 0.6), (1908.73, 0.4)),
}

# Gas between the stars that absorbs: wavelength and equivalent width in Å of a typical star-forming galaxy at z near
# 1: Zhu et al. 2015, ApJ 815, 48 (Fe II, Mg II), Shapley et al. 2003, ApJ 588, 65 (bluer), rounded; Na I by eye.
INTERSTELLAR_LINES = np.array(
    [
        [1526.71, 1.5], [1548.20, 1.8], [1550.78, 1.2], [1608.45, 1.0], [1670.79, 1.5], [1854.72, 0.8],
        [1862.79, 0.6], [2344.21, 1.6], [2374.46, 1.4], [2382.77, 1.7], [2586.65, 1.8], [2600.17, 2.0],
        [2796.35, 2.2], [2803.53, 1.9], [2852.96, 0.7], [3934.77, 0.2], [5891.58, 0.8], [5897.56, 0.6],
    ]
)  # fmt: skip

# Broad lines of quasars: wavelength, equivalent width in Å (Vanden Berk et al. 2001, AJ 122, 549, table 2, rounded;
# blends split as in Francis et al. 1991, ApJ 373, 465), width over that of H beta, blueshift over that of C IV.
QUASAR_LINES = np.array(
    [
        [977.02, 4, 1.1, 0.5], [1033.8, 10, 1.2, 0.7], [1065.1, 3, 1.2, 0.3], [1117.3, 4, 1.5, 0.3],
        [1175.7, 3, 1.2, 0.4], [1215.67, 50, 1.0, 0.2], [1215.67, 26, 2.2, 0.6], [1240.8, 18, 1.1, 0.6],
        [1263.4, 3, 1.0, 0.3], [1304.4, 2.2, 0.9, 0.1], [1335.3, 1.0, 0.9, 0.1], [1396.8, 5.5, 1.2, 0.7],
        [1403.8, 4.5, 1.3, 0.7], [1549.1, 26, 1.1, 1.0], [1640.4, 5, 1.8, 1.6], [1663.5, 2.5, 1.2, 0.8],
        [1750.3, 1.0, 1.2, 0.5], [1857.4, 1.2, 1.1, 0.3], [1892.0, 3.5, 1.0, 0.2], [1908.7, 17, 1.3, 0.5],
        [2326.4, 2, 1.2, 0.1], [2798.8, 31, 0.9, 0.0], [3890.2, 0.5, 1.0, 0.0], [3971.2, 2.5, 1.0, 0.0],
        [4102.9, 6, 1.0, 0.0], [4341.7, 14, 1.0, 0.0], [4687.0, 3, 1.5, 0.3], [4862.7, 46, 1.0, 0.0],
        [5877.2, 5, 1.0, 0.0], [6564.6, 195, 0.9, 0.0], [7067.2, 2, 1.0, 0.0], [8449.0, 10, 0.8, 0.0],
        [9231.6, 6, 1.0, 0.0],
    ]
)  # fmt: skip

# Narrow lines of quasars: wavelength and equivalent width in Å, Vanden Berk et al. 2001, rounded.
QUASAR_NARROW_LINES = np.array(
    [
        [3346.79, 0.35], [3426.85, 1.1], [3728.5, 1.6], [3869.86, 1.4], [3968.59, 0.45], [4364.44, 0.4],
        [4862.68, 1.2], [4960.30, 13.2 / 2.98], [5008.24, 13.2], [6302.05, 0.9], [6549.86, 1.8], [6564.61, 5.0],
        [6585.27, 5.4], [6718.29, 1.6], [6732.67, 1.5],
    ]
)  # fmt: skip

# Iron in quasars, by multiplet: share of the ultraviolet or the optical iron, then "wavelength weight" (Å, relative
# within the multiplet). Multiplets after Moore 1959 (optical) and 1952 (ultraviolet); those of UV 60-63 and 78 as in
# Popovic et al. 2018, the optical ones as in Veron-Cetty et al. 2004, A&A 417, 515; shares by eye, after the templates
# of Vestergaard & Wilkes 2001, ApJS 134, 1 and Boroson & Green 1992, ApJS 80, 109, rounded.
ULTRAVIOLET_IRON = {
    "Fe III UV 34": (0.02, "1895.5 1, 1914.1 .7, 1926.3 .5"),
    "Fe III UV 48": (0.035, "2062.2 .6, 2068.9 .7, 2079.7 1, 2090.7 .4, 2103.8 .3"),
    "Fe II UV 79, 91-94": (0.03, "2118.0 .4, 2151.0 .5, 2164.3 .5, 2192.3 .5, 2221.1 .5"),
    "Fe II UV 168, 183": (0.04, "1610.9 .5, 1694.7 .5, 1718.1 .7, 1761.4 .6, 1786.7 1, 1816.0 .4"),
    "Fe II UV 4, 5": (0.05, "2250.8 .7, 2260.8 .8, 2280.6 .9, 2297.0 1, 2312.0 .8"),
    "Fe II UV 3, 35": (0.13, """2328.1 .6, 2332.0 .6, 2333.5 .8, 2338.7 .6, 2344.2 .8, 2349.0 .7, 2355.6 .6, 2359.8 .7,
        2362.7 .7, 2365.6 .8, 2367.3 .6"""),
    "Fe II UV 2": (0.16, """2374.5 .6, 2382.8 1, 2389.4 .8, 2396.4 .9, 2400.0 .7, 2405.6 .7, 2407.4 .6, 2411.3 .7,
        2414.0 .5, 2425.0 .3, 2432.6 .4, 2440.0 .5"""),
    "Fe II UV 148, 207, 208, 159": (0.15, """2445.6 .6, 2458.8 .8, 2468.7 .7, 2481.0 .7, 2493.9 .9, 2506.8 1.2,
        2509.1 1.1, 2512.3 .5, 2527.1 .7, 2535.4 .7, 2542.1 .4, 2550.7 .5"""),
    "Fe II UV 64": (0.05, "2563.3 1, 2568.4 .7, 2578.7 .8, 2592.6 1"),
    "Fe II UV 1": (0.11, """2586.7 .6, 2599.2 .8, 2600.2 1, 2607.9 .7, 2612.7 .8, 2614.6 .7, 2618.4 .6, 2622.5 .4,
        2626.5 .8, 2629.1 .6, 2632.1 .7"""),
    "Fe II UV 62, 63": (0.07, """2693.6 .3, 2715.2 .5, 2725.7 .4, 2728.3 .5, 2731.5 .5, 2737.8 .6, 2740.4 1, 2744.0 .7,
        2747.5 .9, 2750.2 1, 2756.6 1, 2762.7 .4, 2769.8 .3"""),
    "Fe II UV 61": (0.04, "2836.5 .6, 2846.3 .7, 2857.2 .6, 2862.0 .7, 2869.7 .7, 2881.6 .8"),
    "Fe II UV 60, 78": (0.06, """2908.0 .4, 2917.3 .5, 2927.4 1, 2940.4 .6, 2945.3 .6, 2954.6 .9, 2965.5 .7, 2971.4 .6,
        2980.2 .8, 2985.7 1, 3003.5 .9"""),
    "Fe II opt 6, 7": (0.05, "3184.0 .5, 3194.8 .7, 3211.4 .9, 3228.7 1, 3256.8 .9, 3278.3 .7, 3296.8 .4, 3324.0 .3"),
}  # fmt: skip
OPTICAL_IRON = {
    "Fe II 27, 28": (0.16, """4123.8 .3, 4174.6 .7, 4180.0 .8, 4234.4 1, 4259.3 .4, 4274.5 .4, 4297.8 .6, 4304.4 .7,
        4353.0 .9, 4386.6 .7, 4418.1 .6"""),
    "Fe II 37, 38": (0.36, """4474.2 .3, 4490.4 .6, 4492.7 .6, 4509.6 .9, 4516.6 .8, 4521.5 .8, 4523.9 1, 4542.8 .4,
        4550.7 1, 4557.2 .7, 4577.6 .5, 4584.0 .5, 4585.1 1, 4621.8 .5, 4630.6 1, 4668.1 .5, 4732.8 .3"""),
    "Fe II 42": (0.17, "4925.3 .7, 5019.8 1, 5170.5 1.1"),
    "Fe II 48, 49, 41": (0.31, """5198.9 .8, 5236.1 1, 5256.4 .4, 5266.3 .7, 5277.5 1, 5285.6 .7, 5318.2 1.2,
        5327.0 .5, 5338.7 .4, 5347.7 .3, 5364.4 .8, 5415.6 .4, 5426.8 .4"""),
    "Fe II 46, 40, 74": (0.05, "5992.8 .4, 6149.5 .6, 6240.1 .7, 6249.3 .8, 6418.7 .4, 6458.2 .9, 6518.1 .7"),
}  # fmt: skip

# Gas in front of a quasar that absorbs: wavelength, equivalent width over that of the strongest line of its kind, and
# its kind: 0 low ions (after Mg II systems of York et al. 2006, MNRAS 367, 945), 1 high ions.
ABSORBER_LINES = np.array(
    [
        [1260.42, 0.6, 0], [1302.17, 0.4, 0], [1304.37, 0.2, 0], [1334.53, 0.6, 0], [1526.71, 0.45, 0],
        [1608.45, 0.3, 0], [1670.79, 0.5, 0], [1854.72, 0.15, 0], [1862.79, 0.1, 0], [2344.21, 0.5, 0],
        [2374.46, 0.3, 0], [2382.77, 0.65, 0], [2586.65, 0.45, 0], [2600.17, 0.65, 0], [2796.35, 1.0, 0],
        [2803.53, 0.8, 0], [2852.96, 0.25, 0], [1238.82, 0.15, 1], [1242.80, 0.1, 1], [1393.76, 0.5, 1],
        [1402.77, 0.35, 1], [1548.20, 1.0, 1], [1550.78, 0.65, 1],
    ]
)  # fmt: skip

# Broad absorption: wavelength, depth over that of C IV, and whether only quasars that absorb in low ions have it
# (Hall et al. 2002, ApJS 141, 267).
BROAD_ABSORPTION_LINES = np.array(
    [
        [1033.8, 0.8, 0], [1215.67, 0.5, 0], [1240.8, 0.9, 0], [1398.3, 0.6, 0], [1549.1, 1.0, 0],
        [1857.4, 0.6, 1], [2799.1, 0.5, 1],
    ]
)  # fmt: skip

LYMAN_LIMIT, LYMAN_ALPHA = 911.75, 1215.67  # Å
# The Lyman series: wavelength in Å and oscillator strength, Morton 2003.
LYMAN_SERIES = np.array(
    [[1215.67, 0.4164], [1025.72, 0.0791], [972.54, 0.0290], [949.74, 0.0139], [937.80, 0.0078], [930.75, 0.0048]]
)


def parse_multiplets(multiplets: dict[str, tuple[float, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Wavelengths in Å and shares of the flux of the lines in a table of multiplets, shape (n,) each.

    Args:
        multiplets: A share, and "wavelength weight" of each line, by name.
    """
    lines = []
    for share, text in multiplets.values():
        wavelengths, weights = np.array([line.split() for line in text.split(",")], dtype=float).T
        lines.append([wavelengths, share * weights / weights.sum()])
    wavelengths, shares = np.hstack(lines)
    return wavelengths, shares / shares.sum()
