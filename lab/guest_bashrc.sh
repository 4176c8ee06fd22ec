# What `lab/vm shell` shows first.
PS1='\[\e[1;33m\]vm\[\e[0m\] \w \$ '
HISTFILE=
cat <<'BANNER'
A machine of your own, on this host's files (what you change is forgotten when you leave).
  pf0 0000:01:00.0, pf1 0000:02:00.0   SR-IOV NICs (82576, driver igb), 7 VFs each
  wire0, wire1                         the other ends of their cables
Try:  echo 3 > /sys/class/net/pf0/device/sriov_numvfs; ip link show pf0
Leave with exit; Ctrl-] switches the machine off.
BANNER
