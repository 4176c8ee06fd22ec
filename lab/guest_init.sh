#!/bin/bash
# The guest's init, after initrd_init.sh has mounted everything.  It brings
# the NICs up, runs the job that the launcher left in /run/lab, and reports on the control port:
# "up" when the job starts, "exit STATUS" when it has ended.  The launcher then ends the machine.
#
# /run/lab: environment (LAB_* and what is exported to the job), command or bashrc, cwd.
# Under emulation a subprocess is dear, so bash does by itself what it can.

release=$(</proc/sys/kernel/osrelease)
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 VFD_LAB=1 VFD_LAB_KERNEL=$release
source /run/lab/environment
export PATH=$LAB_PATH:$PATH:$LAB_TOOLS/lab

ln -sfn "$LAB_KERNEL/lib/modules/$release" "/lib/modules/$release"
type -P modprobe > /proc/sys/kernel/modprobe
echo vm > /proc/sys/kernel/hostname
exec 9<> /dev/virtio-ports/lab.control

# NICs are called what they are: pf0 …, wire0 …, plain0.  The MACs are lab/machine.py's.
((LAB_IGB)) && modprobe -a igb igbvf
((LAB_IGB || LAB_PLAIN)) && modprobe virtio_net
for net in /sys/class/net/eth*; do
    [[ -e $net/address ]] || continue
    address=$(<"$net/address")
    case $address in
        52:54:00:10:00:*) name=pf ;;
        52:54:00:20:00:*) name=wire ;;
        52:54:00:30:00:*) name=plain ;;
        *) continue ;;
    esac
    echo "link set ${net##*/} name $name$((16#${address##*:})) up"
done | ip -batch -
if ((LAB_VFS)); then
    for pf in /sys/class/net/pf*; do echo "$LAB_VFS" > "$pf/device/sriov_numvfs"; done
fi

cd "$(</run/lab/cwd)" || cd /
if [[ $LAB_MODE == shell ]]; then
    (while read -r word rows columns; do
        [[ $word == winsize ]] && stty -F /dev/hvc0 rows "$rows" cols "$columns"
    done <&9) &
    echo up >&9
    setsid -w -c bash --rcfile /run/lab/bashrc -i 9>&- < /dev/hvc0 > /dev/hvc0 2>&1
    echo "exit $?" >&9
else
    # Through pipes: a port can be opened only once, so a command could not reopen /dev/stderr.
    mkfifo /run/lab/out /run/lab/err
    cat /run/lab/out > /dev/virtio-ports/lab.stdout 9>&- &
    writers=$!
    cat /run/lab/err > /dev/virtio-ports/lab.stderr 9>&- &
    writers+=" $!"
    exec 3> /run/lab/out 4> /run/lab/err
    ((LAB_MERGE)) && exec 4>&3
    echo up >&9
    bash /run/lab/command < /dev/null >&3 2>&4 3>&- 4>&- 9>&-
    status=$?
    exec 3>&- 4>&-
    # what the command left running may hold the pipes open: then a second has to do
    (sleep 1; kill $writers) 2> /dev/null &
    wait $writers
    echo "exit $status" >&9
fi
sleep infinity
