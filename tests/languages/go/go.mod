module example.dev/lang-go

go 1.24
