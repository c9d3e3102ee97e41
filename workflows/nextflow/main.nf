// Restores every image of a folder, one task for each; a refused image does not stop the others.
//   nextflow run workflows/nextflow/main.nf --images 'images/*.tif' --results results
// The command `napari-dip` is on the path, or in a container that is named in nextflow.config.
nextflow.enable.dsl = 2

params.images  = 'images/*.{tif,tiff,png,jpg}'
params.results = 'results'
params.task    = 'denoise'
params.options = '--preset fast'

process RESTORE {
    tag "${image.name}"
    publishDir params.results, mode: 'copy'
    cpus 1

    input:
    path image, stageAs: 'input/*'

    output:
    path "${image.baseName}.tif", optional: true, emit: image
    path "${image.baseName}.json", optional: true, emit: report
    path "${image.baseName}.refused.txt", optional: true, emit: refusal

    script:
    """
    code=0
    napari-dip ${params.task} '${image}' -o '${image.baseName}.tif' \\
        --report '${image.baseName}.json' --threads ${task.cpus} --quiet ${params.options} \\
        2> messages.txt || code=\$?
    cat messages.txt >&2
    if [ "\$code" -eq 2 ]; then # refused before any work: nothing was written but why
        mv messages.txt '${image.baseName}.refused.txt'
    elif [ "\$code" -ne 0 ]; then
        exit "\$code"
    fi
    """
}

workflow {
    RESTORE(Channel.fromPath(params.images, checkIfExists: true))
}
