"""What spark-submit runs: the command, in the session that spark-submit opens.

    spark-submit --master yarn conf/submit.py STUDIES --out RESULTS --config conf/cluster.yaml
    spark-submit --py-files imaging_pipeline.zip conf/submit.py STUDIES --out RESULTS

The package is what the machines have installed, or a zip of the folder imaging_pipeline. A zip or a wheel brings
neither conf/ nor models/: IMAGING_PIPELINE_HOME names the folder that holds both, on every machine. What spark-submit
is given (--master, --conf) stands unless --master or --set says otherwise.
"""

import sys

from imaging_pipeline.run import main

if __name__ == "__main__":
    sys.exit(main())
