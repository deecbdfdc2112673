module hotbay

go 1.19
