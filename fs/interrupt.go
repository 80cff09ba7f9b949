package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// interrupt answers FUSE_INTERRUPT. The kernel sends it when any signal reaches a thread that waits for a
// request, once per request, and does not say which signal. A parked read is given up at once when the signal
// ends the thread. When it does not, the read goes on, as on a local disk: EINTR would surface as a short read
// that programs do not expect, or, in a page fault, as SIGBUS. The keeper then watches for a fatal one.
func (m *Mounted) interrupt(fd int, h header) {
	p := m.lot.get(h.interrupted())
	if p == nil {
		// Another loop has read the request but not parked it yet, or has just answered it. EAGAIN makes the
		// kernel send the INTERRUPT again, unless the request is no more (Documentation/filesystems/fuse.rst).
		reply(fd, h.unique(), syscall.EAGAIN)
		return
	}
	defer p.release()
	p.interrupted.Store(true)
	m.giveUpKilled(p)
}

// giveUpKilled answers an interrupted read with EINTR if its reader is dying.
func (m *Mounted) giveUpKilled(p *parked) {
	if m.hopeless(p.tid) && p.f.blob.Cancel(p) {
		m.rare.interrupted.Add(1)
		p.fail(syscall.EINTR)
	}
}

// hopeless reports that a thread will never look at what it reads: it is gone, or a fatal signal is pending.
// So does a thread that we cannot see: being killed must always work. It reads /proc/TID/status, which takes
// no lock of the thread's memory (a page fault that waits for us may hold those).
func (m *Mounted) hopeless(tid uint32) bool {
	if tid == 0 {
		return true
	}
	status, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(tid), 10) + "/status")
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) {
		return false // the keeper looks again
	}
	if err != nil {
		return true
	}
	fatal, err := fatalPending(status)
	return err != nil || fatal
}

// signalSet is a signal mask as /proc shows it: bit s-1 is signal s.
type signalSet uint64

func setOf(signals ...syscall.Signal) (s signalSet) {
	for _, sig := range signals {
		s |= 1 << (sig - 1)
	}
	return s
}

// harmless are the signals whose default action does not end a process (signal(7)).
var harmless = setOf(syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN,
	syscall.SIGTTOU, syscall.SIGURG, syscall.SIGWINCH)

// fatalPending reads /proc/PID/status (proc_pid_status(5)): is a signal pending that will end the thread?
// The kernel turns most fatal signals into a pending SIGKILL; those that dump core stay what they are.
func fatalPending(status []byte) (bool, error) {
	var pending, blocked, ignored, caught signalSet
	found := 0
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		var set *signalSet
		switch string(name) {
		case "SigPnd", "ShdPnd":
			set = &pending
		case "SigBlk":
			set = &blocked
		case "SigIgn":
			set = &ignored
		case "SigCgt":
			set = &caught
		default:
			continue
		}
		v, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
		if err != nil {
			return false, fmt.Errorf("signal mask %q: %w", line, err)
		}
		*set |= signalSet(v)
		found++
	}
	if found != 5 {
		return false, fmt.Errorf("%d of 5 signal masks in a process status of %d bytes", found, len(status))
	}
	kill := setOf(syscall.SIGKILL)
	deadly := pending & kill
	deadly |= pending &^ (blocked | ignored | caught | harmless)
	return deadly != 0, nil
}
