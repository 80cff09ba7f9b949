package mmap

import (
	"testing"

	"golang.org/x/sys/unix"
)

func BenchmarkColdWriteTo(b *testing.B) {
	const size = 256 << 20
	f := file(b, random(size))
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		buf := make([]byte, 1<<20)
		for {
			n, _ := unix.Read(fds[1], buf)
			if n <= 0 {
				close(done)
				return
			}
		}
	}()
	for _, warm := range []bool{false, true} {
		b.Run(map[bool]string{false: "fresh map", true: "used map"}[warm], func(b *testing.B) {
			b.SetBytes(size)
			r, _ := Map(f, size)
			for b.Loop() {
				if !warm {
					b.StopTimer()
					r.Close()
					r, _ = Map(f, size)
					b.StartTimer()
				}
				for off := int64(0); off < size; off += 1 << 20 {
					if _, err := r.WriteTo(fds[0], nil, off, 1<<20); err != nil {
						b.Fatal(err)
					}
				}
			}
			r.Close()
		})
	}
	b.Run("pread", func(b *testing.B) {
		b.SetBytes(size)
		buf := make([]byte, 1<<20)
		for b.Loop() {
			for off := int64(0); off < size; off += 1 << 20 {
				f.ReadAt(buf, off)
				unix.Write(fds[0], buf)
			}
		}
	})
	unix.Close(fds[0])
	<-done
	unix.Close(fds[1])
}
