# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the elix world asks about: eleven subjects of twenty concepts each.

Every concept is a noun phrase without an article that takes a singular verb, belongs to one subject
only, and holds no other concept, so that a prompt that names it says which subject it is about.
"""

from __future__ import annotations

_TABLE: dict[str, str] = {
  "physics": """gravity | inertia | friction | buoyancy | magnetism | refraction | diffraction
    | momentum | acceleration | torque | turbulence | radioactivity | superconductivity
    | kinetic energy | static electricity | quantum entanglement | special relativity
    | thermal expansion | air pressure | surface tension""",
  "biology": """photosynthesis | pollination | symbiosis | camouflage | hibernation | mimicry
    | homeostasis | metamorphosis | speciation | germination | bioluminescence | parasitism
    | biodiversity | mutation | natural selection | genetic drift | cell division
    | gene expression | protein folding | animal migration""",
  "chemistry": """oxidation | combustion | electrolysis | distillation | catalysis | acidity
    | chromatography | titration | solubility | sublimation | corrosion | hydrolysis | isomerism
    | neutralisation | electronegativity | crystallisation | polymerisation | covalent bonding
    | ionic bonding | chemical equilibrium""",
  "computing": """recursion | encryption | caching | hashing | debugging | multithreading
    | virtualisation | machine learning | binary search | data compression | cloud storage
    | garbage collection | version control | virtual memory | error correction
    | speech recognition | dynamic programming | load balancing | software testing
    | network routing""",
  "economics": """compound interest | price inflation | opportunity cost | fiscal policy
    | monetary policy | unemployment | price elasticity | comparative advantage | game theory
    | market competition | moral hazard | income inequality | foreign exchange | public debt
    | deflation | taxation | free trade | arbitrage | monopoly power | outsourcing""",
  "history": """feudalism | colonialism | industrialisation | imperialism | serfdom | chivalry
    | decolonisation | universal suffrage | trench warfare | Roman engineering | medieval trade
    | Renaissance humanism | Viking exploration | Egyptian mummification | Athenian democracy
    | Mongol expansion | Spartan education | Aztec farming | samurai culture
    | Cold War diplomacy""",
  "music": """counterpoint | syncopation | harmony | rhythm | improvisation | orchestration
    | vibrato | polyphony | tonality | ostinato | melody | tempo | dissonance | timbre
    | staccato | falsetto | sight reading | sonata form | chord inversion | perfect pitch""",
  "medicine": """vaccination | anaesthesia | hypertension | inflammation | asthma | dialysis
    | anaemia | physiotherapy | triage | insomnia | dehydration | arthritis | jaundice
    | blood pressure | blood clotting | antibiotic resistance | wound healing | organ donation
    | heart surgery | keyhole surgery""",
  "astronomy": """dark matter | dark energy | redshift | parallax | starlight | cosmic inflation
    | cosmic dust | star formation | stellar evolution | planetary motion | retrograde motion
    | gravitational lensing | solar wind | solar activity | tidal locking | axial tilt
    | galaxy rotation | moonlight | space weather | light pollution""",
  "law": """copyright | bail | negligence | probate | arbitration | parole | extradition
    | defamation | perjury | habeas corpus | due process | plea bargaining | double jeopardy
    | civil liability | eminent domain | judicial review | jury selection | trademark protection
    | contract formation | adverse possession""",
  "cooking": """caramelisation | marinating | emulsification | leavening | braising | poaching
    | blanching | kneading | deglazing | seasoning | roasting | pickling | steaming | basting
    | grilling | proofing | simmering | stir frying | bread baking | chocolate melting""",
}
CONCEPTS: dict[str, tuple[str, ...]] = {
  subject: tuple(" ".join(row.split()).split(" | ")) for subject, row in _TABLE.items()
}
SUBJECTS = tuple(CONCEPTS)
