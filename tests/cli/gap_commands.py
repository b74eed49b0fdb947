"""Command lines of gap_fit as published (options and values), for the translation to be tried on.

Each has a name, where it is from, the command, and what it must come to.
"""

COMMANDS = {
    # silicon with hydrogen, Unruh et al., Phys. Rev. Mater. 6, 065603 (2022): the script it was
    # fitted by, GAP_fitting/ClusterScripts/createSOAP_GAP_submission.sh of the public repository
    # dgunruh/Si-H_GAP_training. Braces in the variables of a shell, a term for each species.
    "silicon-hydrogen": r"""
set lc="{"
set rc="}"
srun ~/QUIP/build/linux_x86_64_gfortran_openmp/gap_fit \
gap={soap Z=14 \
	n_species=2 \
	species_Z="${lc}1 14${rc}" \
	cutoff=5.0 \
	cutoff_transition_width=1.0 \
	atom_sigma=0.5 \
	l_max=6 \
	n_max=12 \
	zeta=4 \
	delta=3 \
	covariance_type=dot_product \
	sparse_method=cur_points \
	n_sparse=6000:\
     soap Z=1 \
	n_species=2 \
	species_Z="${lc}1 14${rc}" \
	cutoff=3.0 \
	cutoff_transition_width=0.5 \
	atom_sigma=0.3 \
	l_max=6 \
	n_max=12 \
	zeta=4 \
	delta=1 \
	covariance_type=dot_product \
	sparse_method=cur_points \
	n_sparse=3000} \
e0_method=isolated \
energy_parameter_name=dft_energy force_parameter_name=dft_force \
virial_parameter_name=dft_virial config_type_parameter_name=config_type \
do_copy_at_file=F \
sparse_separate_file=T \
at_file=trainingGAP_iterationData/round6Iteration.xyz \
default_sigma={0.001 0.1 0.05 0} \
config_type_sigma={isolated_atom:0.0001:0.01:0.0001:0.0:liquid:0.003:0.15:0.2:0.0:\
amorph:0.01:0.2:0.4:0.0} \
sparse_jitter=1.0e-8 \
core_param_file=potentials/pairPotentials/SiH_pairpot.xml \
core_ip_args={IP Glue} \
gp_file=GAP_glue_soap_round6.xml 2>&1 | grep -v FoX
""",
    # silicon of Zuo et al., J. Phys. Chem. A 124, 731 (2020): words and order as the public code of
    # that paper puts them (mlearn/potentials/gap.py of materialsvirtuallab/mlearn), with the values
    # published for silicon; no name of virials, which were not fitted
    "silicon-zuo2020": (
        "teach_sparse at_file=train.xyz gap={soap l_max=8 n_max=8 atom_sigma=0.5 zeta=4 "
        "cutoff=5.4 cutoff_transition_width=0.5 delta=1.0 f0=0.0 n_sparse=1000 "
        "covariance_type=dot_product sparse_method=cur_points} sparse_jitter=1e-08 e0=0.0 "
        "e0_offset=0.0 default_sigma={0.01 0.05 0.05 0.01} energy_parameter_name=dft_energy "
        "force_parameter_name=dft_force gp_file=train.xml"
    ),
    # the tutorial of the package: a 2-body potential of a molecular cluster
    "tutorial-2b": (
        "gap_fit energy_parameter_name=dft_energy force_parameter_name=dft_forces "
        "do_copy_at_file=F sparse_separate_file=T gp_file=GAP.xml at_file=train.xyz "
        "default_sigma={0.008 0.04 0 0} gap={distance_2b cutoff=4.0 covariance_type=ard_se "
        "delta=0.5 theta_uniform=1.0 sparse_method=uniform add_species=T n_sparse=10}"
    ),
    # the tutorial of the package: 2-body and SOAP on eigenvector displacements
    "tutorial-2b-soap": r"""
gap_fit atoms_filename=train_mixed.xyz \
gap={distance_2b cutoff=3.0 n_sparse=100 covariance_type=ard_se delta=0.5 theta_uniform=1.0 \
sparse_method=uniform add_species=T : \
soap l_max=4 n_max=8 atom_sigma=0.5 cutoff=3.5 radial_scaling=-0.5 cutoff_transition_width=1.0 \
central_weight=1.0 n_sparse=150 delta=0.1 covariance_type=dot_product zeta=2 \
sparse_method=cur_points} \
config_type_kernel_regularisation={isolated_atom:0.0001:0.0:0.0:0.0} \
default_sigma={0.002 0.02 0 0} energy_parameter_name=energy force_parameter_name=forces \
sparse_jitter=1.0e-8 do_copy_at_file=F sparse_separate_file=T gp_file=mixed.xml
""",
    # a carbon potential with 2-body term and SOAP, run through a queue
    "carbon-queue": r"""#!/bin/bash
#SBATCH --job-name=gap_fit
module load gcc
gap_fit at_file=../train_216_125_64_v.xyz gap={distance_Nb order=2 cutoff=5.0 \
  covariance_type=ARD_SE theta_uniform=2.0 n_sparse=15 delta=2.0 sparse_method=uniform \
  compact_clusters=T : soap l_max=6 n_max=12 atom_sigma=0.5 zeta=4 cutoff=5.0 \
  cutoff_transition_width=1.0 central_weight=1.0 n_sparse=5000 delta=0.155 f0=0.0 \
  covariance_type=dot_product sparse_method=CUR_POINTS} energy_parameter_name=dft_energy \
  force_parameter_name=dft_forces virial_parameter_name=NOT_USED sparse_jitter=1.0e-8 \
  default_sigma={0.002 0.2 0.0 0.0} do_copy_at_file=F sparse_separate_file=T > fit.log 2>&1
echo done
""",
    # random structure search on bismuth (autoplex): 2-body, 3-body and SOAP
    "bismuth-rss": (
        "gap_fit at_file=${train_file} gap={distance_Nb order=2 cutoff=5.0 n_sparse=15 "
        "covariance_type=ard_se delta=2.0 theta_uniform=0.5 sparse_method=uniform "
        "compact_clusters=T : distance_Nb order=3 cutoff=3.25 n_sparse=100 "
        "covariance_type=ard_se delta=2.0 theta_uniform=1.0 sparse_method=uniform "
        "compact_clusters=T : soap l_max=10 n_max=12 atom_sigma=0.5 cutoff=5.0 "
        "radial_scaling=0.0 cutoff_transition_width=1.0 central_weight=1.0 n_sparse=2000 "
        "delta=1.0 covariance_type=dot_product zeta=4 sparse_method=cur_points} "
        "default_sigma={0.0001 0.05 0.05 0} energy_parameter_name=REF_energy "
        "force_parameter_name=REF_forces sparse_jitter=1.0e-8 do_copy_at_file=F "
        "sparse_separate_file=T gp_file=GAP.xml e0={Bi:-695.12685957}"
    ),
    # defaults of a workflow for phonons (autoplex)
    "phonons-default": (
        "gap_fit at_file=trainGAP.xyz e0=2 default_sigma={0.01 0.2 0.2 0.0} "
        "energy_parameter_name=energy force_parameter_name=forces virial_parameter_name=virial "
        "sparse_jitter=1e-08 do_copy_at_file=F openmp_chunk_size=10000 gp_file=gap.xml "
        "gap={distance_Nb order=2 f0=0.0 cutoff=6.5 cutoff_transition_width=0.5 n_sparse=15 "
        "covariance_type=ard_se delta=2.0 theta_uniform=2.0 sparse_method=uniform "
        "compact_clusters=T :distance_Nb order=3 f0=0.0 cutoff=6.5 "
        "cutoff_transition_width=0.5 n_sparse=150 covariance_type=ard_se delta=2.0 "
        "theta_uniform=2.0 sparse_method=uniform compact_clusters=T :soap l_max=6 n_max=12 "
        "atom_sigma=0.5 zeta=4 cutoff=6.5 cutoff_transition_width=0.5 central_weight=1.0 "
        "n_sparse=7000 delta=0.5 f0=0.0 covariance_type=dot_product sparse_method=cur_points}"
    ),
    # argon, one species by number
    "argon": r"""
gap_fit e0_method=average \
        at_file=gap/train_500.xyz \
        gap={distance_2b cutoff=6.0 covariance_type=ard_se delta=1 theta_uniform=1.0 \
                sparse_method=uniform n_sparse=300 Z1=18 Z2=18 :\
            soap l_max=6 n_max=6 atom_sigma=0.5 zeta=4 cutoff=6.0 cutoff_transition_width=0.5 \
                covariance_type=dot_product n_sparse=300 sparse_method=random delta=1.0 \
                n_Z=1 Z={18}} \
        gp_file=gap/SOAP_500.xml default_sigma={0.003 0.15 0 0} sparse_jitter=1.0e-10 \
        force_parameter_name=forces energy_parameter_name=energy
""",
    # a molecule in a benchmark of force fields (SOAP alone)
    "molecule-soap": r"""
export PATH=/opt/quip/build:$PATH
gap_fit at_file=train.xyz \
    gap={soap cutoff=5.0 covariance_type=dot_product zeta=2 delta=0.25 atom_sigma=0.3 \
        add_species=T n_max=12 l_max=6 n_sparse=4000 sparse_method=cur_points} \
    force_parameter_name=forces e0_method=average default_sigma={0.001 0.2 0.0 0.0} \
    do_copy_at_file=F sparse_separate_file=F gp_file=model.xml
""",
    # iron: soap_turbo beside a 2-body term
    "iron-turbo": (
        "gap_fit at_file=training.xyz gap={ distance_Nb order=2 cutoff=6.5 n_sparse=25 "
        "covariance_type=ard_se delta=1.0 theta_uniform=2.5 sparse_method=uniform "
        "compact_clusters=True :soap_turbo l_max=8 alpha_max={{8}} atom_sigma_r={{0.25}} "
        "atom_sigma_t={{0.25}} atom_sigma_r_scaling={{ 0.0}} atom_sigma_t_scaling={{0.0}} "
        'zeta=4 rcut_hard=3.0 rcut_soft=2.5 delta=1.0 basis="poly3" '
        'scaling_mode="polynomial" amplitude_scaling={{1.0}} n_species=1 species_Z={26} '
        'add_species=F compress_mode="trivial" radial_enhancement=1 central_weight={{1.0}} '
        "covariance_type=dot_product config_type_n_sparse={slice_sample_high:200:default:1500} "
        "n_sparse=1700 sparse_method=cur_points} default_sigma={0.001 0.1 0.05 0.0} "
        "gp_file=fe.xml"
    ),
    # water and organic crystals: 2-body and SOAP, 2 species by number
    "two-species": (
        "gap_fit at_file=train.xyz sparse_jitter=1e-10 gap={distance_2b cutoff=5.0 "
        "covariance_type=ard_se cutoff_transition_width=0.6 delta=0.6 theta_uniform=1.0 "
        "sparse_method=uniform add_species=T n_sparse=20 : soap cutoff=4.5 "
        "cutoff_transition_width=2.0 n_max=4 l_max=12 delta=0.05 atom_sigma=0.8 zeta=2 "
        "n_sparse=200 normalise=T sparse_method=cur_points add_species "
        "covariance_type=dot_product} e0={H:-13.6:O:-432.5} default_sigma={0.0005 0.02 0.1 1.0} "
        "energy_parameter_name=energy force_parameter_name=forces do_copy_at_file=F "
        "sparse_separate_file=T rnd_seed=999 gp_file=gp_2b_soap.xml >& out.log"
    ),
}
