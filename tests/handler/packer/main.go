// Packs a build's context with the two libraries that Pulumi's Docker provider uses: fsutil walks the files of which it
// makes the digest that decides about a build, and go-archive makes what Docker receives. Prints both as lines of JSON.
package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/go-archive"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	folder := os.Args[1]
	ignored := must(ignorefile.ReadAll(must(os.Open(filepath.Join(folder, ".dockerignore")))))
	digest, hashed, packed := sha256.New(), []string{}, []string{}
	walk := func(path string, info fs.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			hashed = append(hashed, path)
			fmt.Fprintln(digest, path, info.Mode(), string(must(os.ReadFile(filepath.Join(folder, path)))))
		}
		return err
	}
	must(0, fsutil.Walk(context.Background(), folder, &fsutil.FilterOpt{ExcludePatterns: ignored}, walk))
	archived := must(archive.TarWithOptions(folder, &archive.TarOptions{ExcludePatterns: ignored}))
	for files := tar.NewReader(archived); ; {
		file, err := files.Next()
		if err != nil {
			break
		}
		if file.Typeflag == tar.TypeReg {
			packed = append(packed, file.Name)
		}
	}
	must(0, json.NewEncoder(os.Stdout).Encode(map[string]any{
		"digest": fmt.Sprintf("%x", digest.Sum(nil)), "hashed": hashed, "packed": packed,
	}))
}
