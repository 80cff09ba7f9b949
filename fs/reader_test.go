package fs

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readerMain is a process that reads a mount and may be killed while it does: MODE PATH [OFFSET].
func readerMain(args []string) int {
	mode, path := args[0], args[1]
	var off int64
	if len(args) > 2 {
		off, _ = strconv.ParseInt(args[2], 10, 64)
	}
	f, err := os.Open(path)
	if err != nil {
		fmt.Println("open:", err)
		return 2
	}
	fmt.Println("open")
	switch mode {
	case "sum":
		b, err := os.ReadFile(path)
		if err != nil {
			fmt.Println(err)
			return 3
		}
		fmt.Printf("%x\n", sha256.Sum256(b))
	case "read": // one pread of a page
		var b [4096]byte
		if _, err := unix.Pread(int(f.Fd()), b[:], off); err != nil {
			fmt.Println(err)
			return 3
		}
		fmt.Printf("%x\n", sha256.Sum256(b[:]))
	case "map", "maprandom": // one page fault
		return readMapped(f, off, mode == "maprandom")
	}
	return 0
}

// readMapped touches one page of a mapping while harmless signals rain on the thread.
func readMapped(f *os.File, off int64, random bool) int {
	st, err := f.Stat()
	if err != nil {
		return 2
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		fmt.Println("mmap:", err)
		return 2
	}
	if random {
		if err := unix.Madvise(b, unix.MADV_RANDOM); err != nil {
			return 2
		}
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGALRM)
	go func() {
		for {
			syscall.Kill(os.Getpid(), syscall.SIGALRM)
			time.Sleep(time.Millisecond)
		}
	}()
	page := append([]byte(nil), b[off:min(off+4096, st.Size())]...)
	fmt.Printf("%x\n", sha256.Sum256(page))
	return 0
}
