from benchmarks.static_cost import main

main()
