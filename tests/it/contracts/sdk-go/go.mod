module hotbay-tests

go 1.19

require hotbay v0.0.0

replace hotbay => ../../../../plugin-api/go
