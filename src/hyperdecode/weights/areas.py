"""The 180 areas of HCP-MMP1 a hemisphere: short names, names in the atlas, and the 22 sections that they lie in."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AREAS", "SECTIONS", "Area", "area_of_name", "without_side"]

SECTIONS: tuple[str, ...] = (
    "Primary visual cortex",
    "Early visual cortex",
    "Dorsal stream visual cortex",
    "Ventral stream visual cortex",
    "MT+ complex and neighbouring visual areas",
    "Somatosensory and motor cortex",
    "Paracentral lobular and mid cingulate cortex",
    "Premotor cortex",
    "Posterior opercular cortex",
    "Early auditory cortex",
    "Auditory association cortex",
    "Insular and frontal opercular cortex",
    "Medial temporal cortex",
    "Lateral temporal cortex",
    "Temporo-parieto-occipital junction",
    "Superior parietal cortex",
    "Inferior parietal cortex",
    "Posterior cingulate cortex",
    "Anterior cingulate and medial prefrontal cortex",
    "Orbital and polar frontal cortex",
    "Inferior frontal cortex",
    "Dorsolateral prefrontal cortex",
)
"""Glasser et al. (2016), supplementary neuroanatomical results; section k is ``SECTIONS[k - 1]``."""

BY_SECTION = """
1: V1=Primary_Visual_Cortex
2: V2=Second_Visual_Area V3=Third_Visual_Area V4=Fourth_Visual_Area
3: IPS1=IntraParietal_Sulcus_Area_1 V3A=Area_V3A V3B=Area_V3B V6=Sixth_Visual_Area V6A=Area_V6A
   V7=Seventh_Visual_Area
4: FFC=Fusiform_Face_Complex PIT=Posterior_InferoTemporal_complex V8=Eighth_Visual_Area
   VMV1=VentroMedial_Visual_Area_1 VMV2=VentroMedial_Visual_Area_2 VMV3=VentroMedial_Visual_Area_3
   VVC=Ventral_Visual_Complex
5: FST=Area_FST LO1=Area_Lateral_Occipital_1 LO2=Area_Lateral_Occipital_2 LO3=Area_Lateral_Occipital_3
   MST=Medial_Superior_Temporal_Area MT=Middle_Temporal_Area PH=Area_PH V3CD=Area_V3CD V4t=Area_V4t
6: 1=Area_1 2=Area_2 3a=Area_3a 3b=Primary_Sensory_Cortex 4=Primary_Motor_Cortex
7: 23c=Area_23c 24dd=Dorsal_Area_24d 24dv=Ventral_Area_24d 5L=Area_5L 5m=Area_5m 5mv=Area_5m_ventral
   6ma=Area_6m_anterior 6mp=Area_6mp SCEF=Supplementary_and_Cingulate_Eye_Field
8: 55b=Area_55b 6a=Area_6_anterior 6d=Dorsal_area_6 6r=Rostral_Area_6 6v=Ventral_Area_6 FEF=Frontal_Eye_Fields
   PEF=Premotor_Eye_Field
9: 43=Area_43 FOP1=Frontal_Opercular_Area_1 OP1=Area_OP1-SII OP2-3=Area_OP2-3-VS OP4=Area_OP4-PV
10: 52=Area_52 A1=Primary_Auditory_Cortex LBelt=Lateral_Belt_Complex MBelt=Medial_Belt_Complex
   PBelt=ParaBelt_Complex PFcm=Area_PFcm RI=RetroInsular_Cortex
11: A4=Auditory_4_Complex A5=Auditory_5_Complex STGa=Area_STGa STSda=Area_STSd_anterior STSdp=Area_STSd_posterior
   STSva=Area_STSv_anterior STSvp=Area_STSv_posterior TA2=Area_TA2
12: AAIC=Anterior_Agranular_Insula_Complex AVI=Anterior_Ventral_Insular_Area FOP2=Frontal_Opercular_Area_2
   FOP3=Frontal_Opercular_Area_3 FOP4=Frontal_Opercular_Area_4 FOP5=Area_Frontal_Opercular_5
   Ig=Insular_Granular_Complex MI=Middle_Insular_Area PI=Para-Insular_Area Pir=Pirform_Cortex
   PoI1=Area_Posterior_Insular_1 PoI2=Posterior_Insular_Area_2
13: H=Hippocampus PreS=PreSubiculum EC=Entorhinal_Cortex PeEc=Perirhinal_Ectorhinal_Cortex TF=Area_TF
   PHA1=ParaHippocampal_Area_1 PHA2=ParaHippocampal_Area_2 PHA3=ParaHippocampal_Area_3
14: PHT=Area_PHT TE1a=Area_TE1_anterior TE1m=Area_TE1_Middle TE1p=Area_TE1_posterior TE2a=Area_TE2_anterior
   TE2p=Area_TE2_posterior TGd=Area_TG_dorsal TGv=Area_TG_Ventral
15: PSL=PeriSylvian_Language_Area STV=Superior_Temporal_Visual_Area TPOJ1=Area_TemporoParietoOccipital_Junction_1
   TPOJ2=Area_TemporoParietoOccipital_Junction_2 TPOJ3=Area_TemporoParietoOccipital_Junction_3
16: 7AL=Lateral_Area_7A 7Am=Medial_Area_7A 7PC=Area_7PC 7PL=Lateral_Area_7P 7Pm=Medial_Area_7P
   AIP=Anterior_IntraParietal_Area LIPd=Area_Lateral_IntraParietal_dorsal LIPv=Area_Lateral_IntraParietal_ventral
   MIP=Medial_IntraParietal_Area VIP=Ventral_IntraParietal_Complex
17: IP0=Area_IntraParietal_0 IP1=Area_IntraParietal_1 IP2=Area_IntraParietal_2 PF=Area_PF_Complex
   PFm=Area_PFm_Complex PFop=Area_PF_Opercular PFt=Area_PFt PGi=Area_PGi PGp=Area_PGp PGs=Area_PGs
18: 23d=Area_23d 31a=Area_31a 31pd=Area_31pd 31pv=Area_31p_ventral 7m=Area_7m d23ab=Area_dorsal_23_a+b
   DVT=Dorsal_Transitional_Visual_Area PCV=PreCuneus_Visual_Area POS1=Parieto-Occipital_Sulcus_Area_1
   POS2=Parieto-Occipital_Sulcus_Area_2 ProS=ProStriate_Area RSC=RetroSplenial_Complex v23ab=Area_ventral_23_a+b
19: 10r=Area_10r 10v=Area_10v 25=Area_25 33pr=Area_33_prime 8BM=Area_8BM 9m=Area_9_Middle a24=Area_a24
   a24pr=Anterior_24_prime a32pr=Area_anterior_32_prime d32=Area_dorsal_32 p24=Area_posterior_24
   p24pr=Area_Posterior_24_prime p32=Area_p32 p32pr=Area_p32_prime pOFC=Posterior_OFC_Complex s32=Area_s32
20: 10d=Area_10d 10pp=Polar_10p 11l=Area_11l 13l=Area_13l 47m=Area_47m 47s=Area_47s a10p=Area_anterior_10p
   OFC=Orbital_Frontal_Complex p10p=Area_posterior_10p
21: 44=Area_44 45=Area_45 47l=Area_47l_(47_lateral) a47r=Area_anterior_47r IFJa=Area_IFJa IFJp=Area_IFJp
   IFSa=Area_IFSa IFSp=Area_IFSp p47r=Area_posterior_47r
22: 46=Area_46 8Ad=Area_8Ad 8Av=Area_8Av 8BL=Area_8B_Lateral 8C=Area_8C 9-46d=Area_9-46d 9a=Area_9_anterior
   9p=Area_9_Posterior a9-46v=Area_anterior_9-46v i6-8=Inferior_6-8_Transitional_Area p9-46v=Area_posterior_9-46v
   s6-8=Superior_6-8_Transitional_Area SFL=Superior_Frontal_Language_Area
"""
"""Section: short name=name in HCPex, in the order of HCPex's labels (Huang, Rolls, Feng & Lin 2022, Table 1)."""


@dataclass(frozen=True)
class Area:
    """One area of the cortex, on both sides.

    Attributes
    ----------
    short : str
        Name as in Glasser et al. (2016): ``V1``, ``MST``, ``FFC``.
    name : str
        Name in the volume HCPex, without hemisphere.
    section : int
        1 to 22, where it lies (`SECTIONS`).
    """

    short: str
    name: str
    section: int


def _areas() -> tuple[Area, ...]:
    areas, section = [], 0
    for word in BY_SECTION.split():
        if word.endswith(":"):
            section = int(word[:-1])
        else:
            short, name = word.split("=")
            areas.append(Area(short, name, section))
    return tuple(areas)


AREAS: tuple[Area, ...] = _areas()
"""In the order of HCPex: area k has label k on the left and 180 + k on the right."""

BY_NAME = {name.casefold(): area for area in AREAS for name in (area.name, area.short)}


def area_of_name(name: str) -> Area | None:
    """Return the area that a name of an atlas stands for, None where it is none of HCP-MMP1.

    Upper and lower case are alike, since HCPex writes some names differently on the right.

    Parameters
    ----------
    name : str
        Short or as in HCPex, with or without the hemisphere: ``V1``, ``Primary_Visual_Cortex_L``, ``R_V1_ROI``.

    Examples
    --------
    >>> area_of_name("Fusiform_Face_Complex_R").short
    'FFC'
    """
    return BY_NAME.get(without_side(name)[0].casefold())


def without_side(name: str) -> tuple[str, str]:
    """Split a region's name into the part that both hemispheres share and ``"L"``, ``"R"`` or ``""``.

    Examples
    --------
    >>> without_side("Area_PH_R"), without_side("L_MST_ROI"), without_side("cerebellum")
    (('Area_PH', 'R'), ('MST', 'L'), ('cerebellum', ''))
    """
    if name.endswith(("_L", "_R")):
        return name[:-2], name[-1]
    if name.startswith(("L_", "R_")):
        return name[2:].removesuffix("_ROI"), name[0]
    return name, ""
