from benchmarks.pose2sim import main

main()
